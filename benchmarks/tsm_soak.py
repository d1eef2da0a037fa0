"""A hundred thousand frames through one session of the bundled motion weights: does anything grow, drift or break?

    growth_mb_100k     resident memory gained over the updates, the largest of ten readings, after 5,000 more to warm up
    state_constant     the state has the same number of bytes at each reading
    state_finite       every number of the state is finite at each reading
    state_repeats      the state is the same, bit for bit, at each reading: a reading falls on the same frame of the loop, and
                       what a causal shift holds depends on no more frames than the network has shifts
    steps_of_updates   share of the updates on which the network ran; the frames come at its own rate, so all of them

100 frames of the sample video over and over, ONNX Runtime, two threads, in a process of its own. `--quick` is 10,000 updates
under the same keys but `growth_mb_10k`.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _machine import Figure, in_fresh_process, main
from tsm_streaming import VIDEO, Effort, make_models, measure_growth, small_model

from effvision.cards import default_card
from effvision.checkpoints import bundled

LOOP = 100  # frames; divides a tenth of the updates, so that every reading falls on the same one
GROWTH_MB = 5.0


def updates_of(options: argparse.Namespace) -> tuple[int, str]:
    """How many, and how that is written in a key."""
    if options.smoke:
        return 10 * LOOP, "1k"
    return (10_000, "10k") if options.quick else (100_000, "100k")


def model_of(folder: Path, options: argparse.Namespace) -> str:
    """The bundled card; where its exported file is not in the checkout, what `tsm_streaming.py` takes."""
    card = default_card("tsm")
    if card.onnx and bundled(card.onnx):
        return card.name
    return small_model(folder, make_models(folder, Effort.of(options).size), options)


def measure(options: argparse.Namespace) -> tuple[list[Figure], dict[str, Any]]:
    """Run it; return the figures, and what they were made from."""
    (updates, name), video = updates_of(options), VIDEO.find(options.data)
    synthetic = "" if video else "_synthetic"
    with tempfile.TemporaryDirectory() as folder:
        model = model_of(Path(folder), options)
        started = time.perf_counter()
        found = in_fresh_process(measure_growth, model, video, updates, LOOP)
        seconds = time.perf_counter() - started
    largest = found["state_largest_at_each_tenth"]
    finite = all(math.isfinite(value) for value in largest)
    figures = [
        Figure(
            f"growth_mb_{name}{synthetic}",
            max(found["growth_mb_at_each_tenth"]),
            ("<", GROWTH_MB),
            "resident memory, largest growth seen",
        ),
        Figure("state_constant", len(found["state_bytes"]) == 1, ("is", True), "the state keeps its size"),
        Figure("state_finite", finite, ("is", True), "no number of the state is infinite or none"),
        Figure("state_repeats", found["different_states"] == 1, ("is", True), "same frame of the loop, same state"),
        Figure(
            "steps_of_updates", found["steps_of_the_network"] / updates, (">=", 0.999), "updates the network ran on"
        ),
    ]
    return figures, {"model": Path(model).stem, "seconds": round(seconds, 1), "loop": LOOP, **found}


if __name__ == "__main__":
    sys.exit(main(measure, __doc__ or ""))
