"""Streaming with temporal shift, against its rivals, on this machine.

Network: online MobileNetV2, width 1.0, 224x224, the 27 classes of the Jester layout, with seeded random weights: for timing
only, its labels mean nothing. All graphs come from the same exporter and run through the same runtime class with the same
options: ONNX Runtime, two threads inside an operator.

    stream_over_2d       one step of the stream, state carried, over the same network without shift
    sliding_over_stream  an 8-frame bidirectional clip graph, recomputed for every frame as a sliding window does, over one step
    baseline_over_stream benchmarks/baselines/tsm.py, eager PyTorch on frames normalised beforehand, over one step
    prepost_ms           everything of `Session.update` but the network, 640x480 frames
    floor_ratio          one step over the time its multiply-adds take at the rate of `torch.mm`
    growth_mb_10k        resident memory gained over 10,000 updates, in a process of its own
    first_label_s        start of `effvision run` to its first line

A ratio is the median over the rounds of each round's own ratio. Steps are timed on rendered frames whatever data there is:
dense arithmetic takes the same time whatever the pixels are. `prepost_ms` and `growth_mb_10k` read the sample video.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from _machine import (
    GEMM,
    THREADS,
    Contender,
    DataFile,
    Figure,
    Times,
    count_multiply_adds,
    floor_ratio,
    gemm,
    gemm_rate,
    in_fresh_process,
    interleave,
    main,
    resident_mb,
    use_threads,
)
from baselines.tsm import OnlineMobileNetV2

from effvision.cards import default_card, get_card
from effvision.checkpoints import bundled
from effvision.models.tsm.clips import render_clip
from effvision.models.tsm.network import TemporalNetwork, build
from effvision.models.tsm.predictor import TSM
from effvision.sources import open_source
from effvision.state import State

CARD = "tsm-mobilenetv2-jester"
WINDOW = 8
M = TypeVar("M", bound=torch.nn.Module)
VIDEO = DataFile(
    "video/intel/car-detection.mp4",
    "https://github.com/intel-iot-devkit/sample-videos/raw/master/car-detection.mp4",
    "1ee266a71838fa40cae4508090fb38ad18a78c733e167c4437d364a8b1ef1959",
    "re-encoded from the original to 640x360, 12.5 frames/s; Intel, CC BY 4.0",
)


@dataclass(frozen=True)
class Effort:
    """How often everything is repeated."""

    rounds: int
    updates: int
    growth: int
    starts: int
    size: int = 224

    @staticmethod
    def of(options: argparse.Namespace) -> Effort:
        """Choose by --smoke and --quick."""
        if options.smoke:
            return Effort(rounds=2, updates=5, growth=30, starts=1, size=64)
        return (
            Effort(rounds=40, updates=300, growth=10_000, starts=3) if options.quick else Effort(200, 2000, 10_000, 5)
        )


# -- the four networks -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Models:
    """The contenders, all with the same weights: three exported graphs in ONNX Runtime and the eager baseline."""

    network: TemporalNetwork
    stream: TSM
    flat: TSM
    sliding: TSM
    baseline: OnlineMobileNetV2
    stream_file: Path


def make_models(folder: Path, size: int) -> Models:
    """Build, export and open everything; graphs of one stream, 2 threads inside an operator."""
    source = TSM.untrained(CARD)
    network: TemporalNetwork = source.runtime.modules["step"].network  # type: ignore[attr-defined]
    opened, files = {}, {}
    for name, shift in (("stream", "causal"), ("flat", "none"), ("sliding", "bidirectional")):
        files[name] = folder / f"{name}.onnx"
        print(f"exporting {name} ({shift} shift)", file=sys.stderr, flush=True)
        model = TSM.from_network(
            with_shift(network, shift),
            labels=source.labels,
            size=(size, size),
            short_side=size * 8 // 7,
            fps=source.fps,
        )
        model.export(files[name])
        opened[name] = TSM.from_pretrained(files[name], threads=THREADS)
    return Models(network=network, baseline=make_baseline(network), stream_file=files["stream"], **opened)


def with_shift(network: TemporalNetwork, shift: Any) -> TemporalNetwork:
    """Return the same network and weights with another direction of the shift."""
    card = get_card(CARD)
    made = build(card.classes, **{**card.network, "frames": WINDOW, "shift": shift}).eval()
    return copy_weights(network, made)


def make_baseline(network: TemporalNetwork) -> OnlineMobileNetV2:
    """Return the eager rival with the weights of `network`."""
    return copy_weights(network, OnlineMobileNetV2(get_card(CARD).classes).eval())


def copy_weights(source: torch.nn.Module, target: M) -> M:
    """Fill `target` from a network with the same layers in the same order under other names; returns it."""
    pairs = zip(target.state_dict(), source.state_dict().values(), strict=True)
    target.load_state_dict(dict(pairs))
    return target


# -- what is timed ---------------------------------------------------------------------------------------------------------


class Steps:
    """Steps of an exported step graph, one frame after the other, the state carried."""

    def __init__(self, model: TSM, frames: Sequence[np.ndarray]) -> None:
        self.runtime = model.runtime
        self.frames = itertools.cycle(frames)
        self.state: State = model.initial_state()

    def __call__(self) -> np.ndarray:
        """Advance by one frame; (1, K)."""
        outputs, self.state = self.runtime.step({"frame": next(self.frames)}, self.state)
        return outputs["logits"]  # type: ignore[no-any-return]


class Windows:
    """The usual sliding window: each frame recomputes the clip that ends with it. Putting the clip together is not timed."""

    def __init__(self, model: TSM, frames: Sequence[np.ndarray]) -> None:
        self.runtime = model.runtime
        windows = [np.stack(frames[i : i + WINDOW], axis=1) for i in range(0, len(frames) - WINDOW + 1, 4)]
        self.clips = itertools.cycle(windows)

    def __call__(self) -> np.ndarray:
        """Recompute one window; (1, K)."""
        return self.runtime.run("clip", {"clip": next(self.clips)})["logits"]  # type: ignore[no-any-return]


class Eager:
    """The baseline on frames that were normalised beforehand, its buffers carried."""

    def __init__(
        self, baseline: OnlineMobileNetV2, frames: Sequence[np.ndarray], preprocess: Mapping[str, Any]
    ) -> None:
        self.baseline = baseline
        mean, std = (torch.tensor(preprocess[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
        self.frames = itertools.cycle([(torch.from_numpy(frame) / 255 - mean) / std for frame in frames])
        self.buffers = baseline.first_buffers(*frames[0].shape[2:])

    def __call__(self) -> np.ndarray:
        """Advance by one frame; (1, K)."""
        with torch.inference_mode():
            logits, self.buffers = self.baseline(next(self.frames), self.buffers)
        return logits.numpy()  # type: ignore[no-any-return]


def rendered_frames(size: int) -> list[np.ndarray]:
    """Twenty frames (1, 3, size, size) float32 RGB 0..255 of a thing that moves."""
    clip = render_clip("left", frames=20, size=(size, size), fps=12.0, seed=0)
    return [np.ascontiguousarray(frame.transpose(2, 0, 1)[None], dtype=np.float32) for frame in clip]


def time_steps(models: Models, effort: Effort) -> Times:
    """Time the four and the machine's limit side by side."""
    frames = rendered_frames(effort.size)
    contenders = {
        "stream": Contender(Steps(models.stream, frames), repeats=10, settle=2),
        "2d": Contender(Steps(models.flat, frames), repeats=10, settle=2),
        "sliding": Contender(Windows(models.sliding, frames), repeats=2),
        "baseline": Contender(Eager(models.baseline, frames, models.stream.metadata.preprocess), repeats=5),
        GEMM: gemm(),
    }
    return interleave(contenders, rounds=effort.rounds)


def disagreement(models: Models, size: int) -> float:
    """Largest difference of a logit between stream and baseline over 12 frames, as a share of the largest logit."""
    frames = rendered_frames(size)[:12]
    ours, theirs = Steps(models.stream, frames), Eager(models.baseline, frames, models.stream.metadata.preprocess)
    pairs = [(ours(), theirs()) for _ in frames]
    return max(float(np.abs(a - b).max()) for a, b in pairs) / max(float(np.abs(b).max()) for _, b in pairs)


def multiply_adds(network: TemporalNetwork, size: int) -> int:
    """Count those of one step."""
    state = network.initial_state(1, size, size)
    return count_multiply_adds(network, lambda: network.step(torch.zeros(1, 3, size, size), state))


# -- whole updates ---------------------------------------------------------------------------------------------------------


def video_frames(video: Path | None, count: int) -> list[np.ndarray]:
    """Return the first `count` frames, stretched to 640x480; rendered ones without a video."""
    import cv2

    if video is None:
        return list(render_clip("left", frames=count, size=(480, 640), fps=12.0, seed=0))
    with open_source(video) as source:
        return [cv2.resize(frame.image, (640, 480)) for frame in itertools.islice(source, count)]


def time_updates(model: TSM, frames: Sequence[np.ndarray], updates: int) -> dict[str, float]:
    """Milliseconds of `Session.update` on 640x480 frames: medians of preparation + finish, of each, and of the network."""
    session = model.session()
    endless = itertools.cycle(frames)
    for _ in range(10):
        session.update(next(endless))
    timings = [session.update(next(endless)).timing for _ in range(updates)]
    return {
        "prepost_ms": statistics.median(t.prepare_ms + t.finish_ms for t in timings),
        "prepare_ms": statistics.median(t.prepare_ms for t in timings),
        "finish_ms": statistics.median(t.finish_ms for t in timings),
        "run_ms": statistics.median(t.run_ms for t in timings),
    }


def small_model(folder: Path, models: Models, options: argparse.Namespace) -> str:
    """Return what opens the 64x64 model: its card where the exported file is bundled, else a file exported now."""
    card = default_card("tsm")
    if card.onnx and bundled(card.onnx):
        return card.name
    if options.smoke:
        return str(models.stream_file)
    print(f"no exported file of {card.name} is bundled: exporting one", file=sys.stderr, flush=True)
    return str(
        TSM.from_pretrained(card.name, runtime="torch").export(folder / f"{card.name}.onnx", batch="dynamic").path
    )


def measure_growth(model_name: str, video: Path | None, updates: int, loop: int = 40) -> dict[str, Any]:
    """Run `updates` frames, the first `loop` of the video over and over, through one session; in a process of its own."""
    use_threads()
    model = TSM.from_pretrained(model_name, runtime="onnx", threads=THREADS)
    session = model.session()
    frames = itertools.cycle(video_frames(video, loop))
    clock, labels = itertools.count(), Counter[str]()

    def advance(count: int) -> int:
        steps = 0
        for _ in range(count):
            result = session.update(next(frames), timestamp=next(clock) / (model.fps or 12.0))
            steps += result.fresh
            labels[result.label] += result.fresh  # type: ignore[attr-defined]
        return steps

    advance(max(5, updates // 20))
    labels.clear()
    before, held = resident_mb(), {session.state.nbytes}
    seen, largest, digests, steps = [], [], set(), 0
    for _ in range(10):
        steps += advance(updates // 10)
        seen.append(resident_mb())
        held.add(session.state.nbytes)
        arrays = session.state.numpy().values()
        largest.append(max(float(np.abs(array).max()) for array in arrays))  # NaN stays NaN
        digests.add(hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest())
    return {
        "updates": updates,
        "steps_of_the_network": steps,
        "resident_mb_before": round(before, 2),
        "growth_mb_at_each_tenth": [round(value - before, 3) for value in seen],
        "state_bytes": sorted(held),
        "state_largest_at_each_tenth": largest,
        "different_states": len(digests),
        "labels": dict(labels.most_common()),
    }


def measure_start(model_name: str, folder: Path, starts: int) -> dict[str, Any]:
    """Time `effvision run MODEL VIDEO --runtime onnx --json`: seconds to the first line, and to the first settled label."""
    sample = TSM.write_sample(folder / "sample.mp4", card=default_card("tsm").name)
    command = [sys.executable, "-m", "effvision", "run", model_name, str(sample), "--runtime", "onnx", "--json"]
    command += ["--threads", str(THREADS)]
    found = [dict(_first_lines(command)) for _ in range(starts + 1)][1:]  # the first start fills the file cache
    return {
        name: {
            "median_s": statistics.median(times[name] for times in found),
            "all_s": [round(times[name], 3) for times in found],
        }
        for name in ("first", "settled")
    }


def _first_lines(command: Sequence[str]) -> Iterator[tuple[str, float]]:
    started = time.perf_counter()
    environment = {**os.environ, "EFFVISION_OFFLINE": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        for index, line in enumerate(process.stdout or ()):
            seconds = time.perf_counter() - started
            settled = json.loads(line)["settled"]
            if index == 0:
                yield "first", seconds
            if settled:
                yield "settled", seconds
                break
        else:
            raise SystemExit(f"no label came from: {' '.join(command)}")
        process.kill()


# -- all of it -------------------------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace) -> tuple[list[Figure], dict[str, Any]]:
    """Run everything; return the figures, and what they were made from."""
    effort = Effort.of(options)
    video = VIDEO.find(options.data)
    synthetic = "" if video else "_synthetic"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = make_models(folder, effort.size)
        small = small_model(folder, models, options)
        times = time_steps(models, effort)
        updates = time_updates(models.stream, video_frames(video, 40), effort.updates)
        growth = in_fresh_process(measure_growth, small, video, effort.growth)
        start = measure_start(small, folder, effort.starts)
        counted = multiply_adds(models.network, effort.size)
        differs = disagreement(models, effort.size)
    over, grown, steady = times.ratio, max(growth["growth_mb_at_each_tenth"]), len(growth["state_bytes"]) == 1
    figures = [
        Figure("stream_over_2d", over("stream", "2d"), ("<=", 1.05), "one step over the network without shift"),
        Figure(
            "sliding_over_stream",
            over("sliding", "stream"),
            (">=", 8.0),
            "8-frame window over one step",
        ),
        Figure("baseline_over_stream", over("baseline", "stream"), (">=", 2.3), "eager PyTorch over one step"),
        Figure(f"prepost_ms{synthetic}", updates["prepost_ms"], ("<=", 2.0), "all but the network, 640x480, median"),
        Figure(
            "floor_ratio",
            floor_ratio(times, "stream", counted),
            ("<=", 2.4),
            "one step over its multiply-adds at that rate",
        ),
        Figure(f"growth_mb_10k{synthetic}", grown, ("<", 5.0), "resident memory, largest growth seen"),
        Figure("state_constant", steady, ("is", True), "the state keeps its size over those frames"),
        Figure("first_label_s", start["first"]["median_s"], ("<", 4.0), "process start to the first label, median"),
    ]
    details = {
        "network": f"{CARD}, random weights (timing only), {effort.size}x{effort.size}",
        "rounds": effort.rounds,
        "ratios": "median over the rounds of each round's own ratio",
        "steps": times.to_dict(),
        "gemm_gflops": round(gemm_rate(times) / 1e9, 1),
        "multiply_adds": counted,
        "baseline_differs": differs,
        "update": updates,
        "growth": {"model": Path(small).stem, **growth},
        "start": start,
    }
    return figures, details


if __name__ == "__main__":
    sys.exit(main(measure, __doc__ or ""))
