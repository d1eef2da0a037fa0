"""Several streams in one process: `update_many`, one call of the network for all, against the same sessions one by one.

Two models, both in ONNX Runtime with two threads inside an operator, both files with a dynamic batch: the bundled one of ten
motions, and the Jester layout (online MobileNetV2, width 1.0, 224x224, 27 classes) with seeded random weights, for timing only.

    frames_per_s_N         frames per second of N streams in all, batched
    batched_over_single_N  time of one frame of each of N streams, batched, over the time of the same one after another;
                           below 1 batching helps

A frame is a whole `Session.update`: a 640x480 picture resized, the network, smoothing; every one is due (`fps=None`). The
pictures are rendered whatever data there is: dense arithmetic takes the same time whatever the pixels are.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _machine import (
    GEMM,
    THREADS,
    Contender,
    Figure,
    Times,
    count_multiply_adds,
    floor_ratio,
    gemm,
    gemm_rate,
    interleave,
    main,
)

from effvision.cards import get_card
from effvision.checkpoints import bundled
from effvision.models.tsm.clips import render_clip
from effvision.models.tsm.predictor import TSM

MOTION, JESTER = "tsm-mobilenetv2-motion", "tsm-mobilenetv2-jester"
STREAMS = (1, 2, 4, 8, 16)
MOTIONS = ("left", "right", "closer", "clockwise")
CHECKED_FRAMES = 12


@dataclass(frozen=True)
class Effort:
    """How often everything is repeated."""

    rounds: int
    repeats: int
    size: int = 224

    @staticmethod
    def of(options: argparse.Namespace) -> Effort:
        """Choose by --smoke and --quick."""
        if options.smoke:
            return Effort(rounds=1, repeats=1, size=64)
        return Effort(rounds=10, repeats=3) if options.quick else Effort(rounds=60, repeats=3)


# -- the two models --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """An exported file that is open, the multiply-adds of one frame, and what it is."""

    opened: TSM
    multiply_adds: int
    what: str


def make_models(folder: Path, size: int) -> dict[str, Model]:
    """Open the bundled file and export the other layout; by the name of the card."""
    motion, jester = TSM.from_pretrained(MOTION, runtime="torch"), untrained(size)
    onnx = bundled(get_card(MOTION).onnx) if get_card(MOTION).onnx else None
    files = {MOTION: onnx or export(motion, folder / "motion.onnx"), JESTER: export(jester, folder / "jester.onnx")}
    words = {
        MOTION: "the bundled file" if onnx else "exported now: no file is bundled",
        JESTER: f"random weights (timing only), {size}x{size}",
    }
    return {
        name: Model(TSM.from_pretrained(files[name], threads=THREADS), multiply_adds(source), words[name])
        for name, source in ((MOTION, motion), (JESTER, jester))
    }


def untrained(size: int) -> TSM:
    """The Jester layout at `size`, with seeded random weights."""
    source = TSM.untrained(JESTER)
    network = source.runtime.modules["step"].network  # type: ignore[attr-defined]
    return TSM.from_network(network, labels=source.labels, size=(size, size), short_side=size * 8 // 7, fps=source.fps)


def export(model: TSM, path: Path) -> Path:
    """Write a file that takes any number of streams."""
    print(f"exporting {path.stem}", file=sys.stderr, flush=True)
    return model.export(path, batch="dynamic").path


def multiply_adds(model: TSM) -> int:
    """Count those of one step of one stream."""
    network = model.runtime.modules["step"].network  # type: ignore[attr-defined]
    height, width = model.metadata.preprocess["size"]
    state = network.initial_state(1, height, width)
    return count_multiply_adds(network, lambda: network.step(torch.zeros(1, 3, height, width), state))


# -- what is timed ---------------------------------------------------------------------------------------------------------


class Streams:
    """One frame of each of `count` streams, in one call or one after another."""

    def __init__(self, model: TSM, count: int, clips: Sequence[Sequence[np.ndarray]], *, batched: bool) -> None:
        self.model = model
        self.batched = batched
        self.sessions = [model.session(fps=None) for _ in range(count)]
        clip_of = [clips[index % len(clips)] for index in range(count)]
        # each stream begins at another frame of its clip
        self.frames = itertools.cycle(
            [[clip[(t + 3 * n) % len(clip)] for n, clip in enumerate(clip_of)] for t in range(len(clips[0]))]
        )

    def __call__(self) -> list[Any]:
        """Advance every stream by one frame; one result of each."""
        frames = next(self.frames)
        if self.batched:
            return self.model.update_many(self.sessions, frames)
        return [session.update(frame) for session, frame in zip(self.sessions, frames, strict=True)]


def rendered_clips() -> list[list[np.ndarray]]:
    """Clips of twenty frames (480, 640, 3) uint8 RGB, each of another motion."""
    return [list(render_clip(name, frames=20, size=(480, 640), fps=12.0, seed=0)) for name in MOTIONS]


def time_streams(models: dict[str, Model], clips: Sequence[Sequence[np.ndarray]], effort: Effort) -> Times:
    """Time every model with every number of streams both ways, and the machine's limit, side by side."""
    contenders = {
        name_of(name, count, batched): Contender(
            Streams(model.opened, count, clips, batched=batched), repeats=effort.repeats
        )
        for name, model in models.items()
        for count in STREAMS
        for batched in (True, False)
    }
    return interleave({**contenders, GEMM: gemm()}, rounds=effort.rounds)


def name_of(model: str, count: int, batched: bool) -> str:
    """Name of a contender."""
    return f"{model} {count} {'batched' if batched else 'single'}"


def disagreement(model: TSM, clips: Sequence[Sequence[np.ndarray]]) -> float:
    """Largest difference of a logit between the two ways over 12 frames of the most streams, as a share of the largest."""
    batched, single = (Streams(model, STREAMS[-1], clips, batched=way) for way in (True, False))
    pairs = [
        (one.logits, other.logits)
        for _ in range(CHECKED_FRAMES)
        for one, other in zip(batched(), single(), strict=True)
    ]
    largest = max(float(np.abs(other).max()) for _, other in pairs)
    return max(float(np.abs(one - other).max()) for one, other in pairs) / largest


# -- all of it -------------------------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace) -> tuple[list[Figure], dict[str, Any]]:
    """Run everything; return the figures, and what they were made from."""
    effort, clips = Effort.of(options), rendered_clips()
    with tempfile.TemporaryDirectory() as name:
        models = make_models(Path(name), effort.size)
    differs = {name: disagreement(model.opened, clips) for name, model in models.items()}
    times = time_streams(models, clips, effort)
    figures = [
        Figure(
            f"frames_per_s_{count}",
            count / times.median_s(name_of(name, count, True)),
            note=f"{'one stream' if count == 1 else f'{count} streams together'}, batched",
            of=name,
        )
        for count in STREAMS
        for name in models
    ]
    figures += [
        Figure(
            f"batched_over_single_{count}",
            times.ratio(name_of(name, count, True), name_of(name, count, False)),
            note="one call over one after another; below 1 batching helps",
            of=name,
        )
        for count in STREAMS
        for name in models
    ]
    return figures, {"rounds": effort.rounds, **facts(models, times), "batched_differs": differs}


def facts(models: dict[str, Model], times: Times) -> dict[str, Any]:
    """What the figures were made from, model by model."""
    found: dict[str, Any] = {
        "ratios": "median over the rounds of each round's own ratio",
        "gemm_gflops": round(gemm_rate(times) / 1e9, 1),
    }
    for name, model in models.items():
        rate = model.opened.fps or 12.0
        most = STREAMS[-1] / times.median_s(name_of(name, STREAMS[-1], True))
        found[name] = {
            "what": model.what,
            "multiply_adds": model.multiply_adds,
            f"cameras_at_{rate:g}_frames_per_s": int(most / rate),
            "ms_per_frame_of_a_stream": {
                f"{count} {'batched' if batched else 'single'}": round(
                    1e3 * times.median_s(name_of(name, count, batched)) / count, 3
                )
                for count in STREAMS
                for batched in (True, False)
            },
            "floor_ratio": {
                str(count): round(floor_ratio(times, name_of(name, count, True), count * model.multiply_adds), 2)
                for count in STREAMS
            },
        }
    return {**found, "steps": times.to_dict()}


if __name__ == "__main__":
    sys.exit(main(measure, __doc__ or ""))
