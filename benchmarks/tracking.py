"""Tracking: how well and how fast one object, many objects, and a detector's objects between key frames are followed.

    auc_keysN, own_auc_keysN  Crossing, the true box given in every N-th frame: success AUC of the other frames, with the
                              authors' weights and with ours
    auc_alone                 Crossing from its first box alone, default weights and session; lost frames count as they are
    wrong_unsaid, false_lost  DragonBaby from its first box: share of the frames with IoU < 0.2 that are not flagged lost, and
                              of the frames with IoU >= 0.5 that are, both of all frames
    csrt_over_ours            OpenCV's CSRT over our whole update, one object
    csrt_over_ours_32         the same, ours per object with 32 objects in the same frames
    floor_ratio_32            the network alone, 32 objects, over 39.5 M multiply-adds each at the machine's limit
    vid_iou_K                 a VID snippet, the detections of every 6th frame carried on: mean IoU with the detector's own
                              boxes K frames later
    skip_speedup              frames a second with a 100 ms detector on every 8th frame over the detector on every frame

CSRT runs in an environment of its own (`make rivals`), in turns with ours; without it its keys are left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _machine import GEMM, Contender, Figure, Times, floor_ratio, gemm, gemm_rate, interleave, main
from _sequences import CROSSING, DRAGONBABY, WEIGHTS, Sequence, Snippet, generated, read_sequence, read_snippet

from effvision import Detections, PatchNet, accelerate
from effvision.metrics import FrameBoxes, TrackingScores, mean_iou_by_offset, success_auc, tracking_scores
from effvision.models.patchnet.network import PatchNet as Matcher

RIVALS = Path(__file__).resolve().parents[1] / ".venv-rivals" / "bin" / "python"
MULTIPLY_ADDS = 39_500_000
OBJECTS = 32
DETECTOR_S = 0.1
EVERY = 8
SURE = 0.5
REFERENCE_IOU = (0.852, 0.835, 0.795, 0.826, 0.793)


@dataclass(frozen=True)
class Effort:
    """How often everything is repeated, and how much of the films is used."""

    rounds: int
    frames: int = 10_000

    @staticmethod
    def of(options: argparse.Namespace) -> Effort:
        """Choose by --smoke and --quick; keys are of whole films, but for a smoke run."""
        if options.smoke:
            return Effort(rounds=1, frames=14)
        return Effort(rounds=5) if options.quick else Effort(rounds=15)


# -- how well --------------------------------------------------------------------------------------------------------------


def with_keys(model: PatchNet, film: Sequence, every: int) -> float:
    """Success AUC of the frames between key frames, in which the true box is given."""
    session, found = model.session(), []
    for index, image in enumerate(film.frames):
        if index % every == 0:
            session.update(image, boxes=film.truth[index], ids=[1])
        else:
            found.append((index, session.update(image).boxes[0]))
    rows = [index for index, _ in found]
    return success_auc(tracking_scores(np.array([box for _, box in found], float), film.truth[rows]).iou)


def alone(model: PatchNet, film: Sequence) -> TrackingScores:
    """Follow the object from its first box to the end."""
    session = model.session(boxes=film.truth[:1])
    answers = [session.update(image) for image in film.frames]
    return tracking_scores(
        np.array([answer.boxes[0] for answer in answers], float),
        film.truth[: len(answers)],
        lost=np.array([answer.lost[0] for answer in answers]),
    )


def carried(model: PatchNet, snippet: Snippet, every: int) -> dict[int, float]:
    """Carry the sure detections of every `every`-th frame on, and compare with the detector's own, by frames since."""
    session, boxes, frames, classes = model.session(max_missed=0, least_overlap=1.0), [], [], []
    for index, image in enumerate(snippet.frames):
        mine = snippet.index == index
        if index % every == 0:
            found = Detections(
                snippet.boxes[mine].astype(np.float32),
                snippet.scores[mine].astype(np.float32),
                snippet.classes[mine],
            )
            session.reset()
            session.update(image, detections=found)
            continue
        result = session.update(image)
        boxes.extend(result.boxes.tolist())
        classes.extend(result.classes.tolist())
        frames.extend([index] * len(result))
    answers = FrameBoxes(np.array(frames, np.int64), np.array(boxes, float).reshape(-1, 4), classes=np.array(classes))
    truth = FrameBoxes(snippet.index, snippet.boxes, classes=snippet.classes)
    return mean_iou_by_offset(answers, truth, answers.frames % every)


# -- how fast --------------------------------------------------------------------------------------------------------------


class Rival:
    """CSRT in its own environment."""

    def __init__(self, film: Sequence) -> None:
        x1, y1, x2, y2 = film.truth[0].round().astype(int)
        script = Path(__file__).parent / "rivals" / "csrt.py"
        words = [str(RIVALS), str(script), str(film.folder), *map(str, (x1, y1, x2 - x1, y2 - y1))]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._line()

    def round(self) -> dict[str, Any]:
        """Track once; return its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._line()

    def close(self) -> None:
        self._process.communicate()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())  # type: ignore[no-any-return]


def update_ms(model: PatchNet, film: Sequence, objects: int) -> float:
    """Median milliseconds of a whole update while `objects` objects are followed through the film."""
    rng = np.random.default_rng(0)
    shifts = np.tile(rng.uniform(-30, 30, (objects, 2)), (1, 2))
    shifts[0] = 0
    session, times = model.session(boxes=film.truth[0] + shifts), []
    for image in film.frames:
        started = time.perf_counter()
        session.update(image)
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times[2:])


def against_rival(model: PatchNet, film: Sequence, effort: Effort) -> dict[str, list[float]]:
    """Milliseconds of an update of CSRT and of ours with one and with many objects, in turns."""
    rival = Rival(film) if RIVALS.is_file() and film.folder is not None else None
    if rival is None:
        print("CSRT is left out: `make rivals` installs it, and it needs the pictures of Crossing")
    found: dict[str, list[float]] = {"ours": [], f"ours_{OBJECTS}": []}
    if rival is not None:
        found["csrt"] = []
    for _ in range(effort.rounds):
        if rival is not None:
            found["csrt"].append(rival.round()["update_ms"])
        found["ours"].append(update_ms(model, film, 1))
        found[f"ours_{OBJECTS}"].append(update_ms(model, film, OBJECTS))
    if rival is not None:
        rival.close()
    return found


def network_times(model: PatchNet, effort: Effort) -> Times:
    """The network alone on many objects, beside the machine's limit."""
    inputs = next(iter(model.example_inputs("step", steps=16, batch=OBJECTS, seed=0)))
    inputs["refresh"][:] = 0
    state = model.runtime.initial_state(OBJECTS)
    _, state = model.runtime.step({**inputs, "refresh": np.ones(OBJECTS, np.float32)}, state)

    def run() -> None:
        model.runtime.step(inputs, state)

    return interleave({"network": Contender(run, repeats=3), GEMM: gemm()}, rounds=effort.rounds * 3)


def skipping(model: PatchNet, film: Sequence) -> dict[str, Any]:
    """A detector that takes a tenth of a second and knows the truth, on key frames only."""
    now = 0

    def detector(image: Any) -> Any:
        time.sleep(DETECTOR_S)
        return film.truth[now][None]

    fast = accelerate(detector, every=EVERY, model=model)
    started = time.perf_counter()
    for now, image in enumerate(film.frames):  # noqa: B007 - the detector knows which frame it is by it
        fast.update(image)
    spent_s = time.perf_counter() - started
    return {"speedup": DETECTOR_S * len(film.frames) / spent_s, **fast.share.to_dict()}


# -- telling ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Films:
    """What is tracked on; `end` and `late` end the keys of generated films."""

    easy: Sequence
    hard: Sequence
    snippet: Snippet | None
    end: str
    late: str

    @staticmethod
    def read(options: argparse.Namespace, effort: Effort) -> Films:
        """Read the data folder; what is not there is generated."""
        crossing, dragon = (read_sequence(data, options.data) for data in (CROSSING, DRAGONBABY))
        return Films(
            easy=_cut(crossing or generated(min(60, effort.frames)), effort),
            hard=_cut(dragon or generated(min(60, effort.frames)), effort),
            snippet=None if options.smoke else read_snippet(options.data, SURE),
            end="" if crossing is not None else "_synthetic",
            late="" if dragon is not None else "_synthetic",
        )


def keyed(model: PatchNet, films: Films, name: str, note: str) -> list[Figure]:
    """The two figures of key frames."""
    limits = ((5, 0.80), (10, 0.76))
    return [
        Figure(f"{name}auc_keys{every}{films.end}", with_keys(model, films.easy, every), (">=", least), note)
        for every, least in limits
    ]


def snipped(model: PatchNet, films: Films, name: str) -> list[Figure]:
    """The figures of the snippet, where there is one."""
    if films.snippet is None:
        return []
    reached = carried(model, films.snippet, 6)
    return [
        Figure(f"{name}vid_iou_{since}", reached[since], (">=", least - 0.01), "6th frames carried on")
        for since, least in enumerate(REFERENCE_IOU, 1)
    ]


def by_itself(model: PatchNet, films: Films) -> tuple[list[Figure], dict[str, Any]]:
    """What is followed from its first box alone."""
    easy, hard = alone(model, films.easy), alone(model, films.hard)
    figures = [
        Figure(f"auc_alone{films.end}", easy.auc, (">=", 0.68), "first box only, default session"),
        Figure(
            f"wrong_unsaid{films.late}", hard.wrong_unsaid, ("<=", 0.2), "IoU < 0.2, not flagged lost, of all frames"
        ),
        Figure(f"false_lost{films.late}", hard.false_lost, ("<=", 0.1), "IoU >= 0.5 and flagged lost, of all frames"),
        Figure(f"false_lost_of_right{films.late}", hard.false_lost_of_right, ("<=", 0.1), "of those with IoU >= 0.5"),
    ]
    return figures, {"alone": easy.to_dict(), "dragon": hard.to_dict()}


def speeds(model: PatchNet, films: Films, effort: Effort) -> tuple[list[Figure], dict[str, Any]]:
    """Against the rival, against the machine, and with a detector on key frames."""
    figures, times = [], against_rival(model, films.easy, effort)
    if "csrt" in times:
        over = [a / b for a, b in zip(times["csrt"], times["ours"], strict=True)]
        many = [a / (b / OBJECTS) for a, b in zip(times["csrt"], times[f"ours_{OBJECTS}"], strict=True)]
        figures = [
            Figure("csrt_over_ours", statistics.median(over), (">=", 6.0), "whole update, one object"),
            Figure("csrt_over_ours_32", statistics.median(many), (">=", 12.0), "ours per object with 32 objects"),
        ]
    network, skipped = network_times(model, effort), skipping(model, films.easy)
    floor = floor_ratio(network, "network", OBJECTS * MULTIPLY_ADDS)
    figures += [
        Figure("floor_ratio_32", floor, ("<=", 2.0), "network alone, PyTorch"),
        Figure(f"skip_speedup{films.end}", skipped["speedup"], (">=", 3.0), "100 ms detector on every 8th frame"),
    ]
    gemm_gflops = round(gemm_rate(network) / 1e9, 1)
    return figures, {
        "update_ms": times,
        "gemm_gflops": gemm_gflops,
        "skip": skipped,
        "network_ms": network.to_dict(),
    }


def measure(options: argparse.Namespace) -> tuple[list[Figure], dict[str, Any]]:
    """Run everything, or only how well other weights follow; return the figures and what they were made from."""
    effort = Effort.of(options)
    films = Films.read(options, effort)
    if options.weights:
        other = _model(options.weights)
        figures, details = by_itself(other, films)
        return [*keyed(other, films, "", options.weights), *figures, *snipped(other, films, "")], details
    own = PatchNet.from_pretrained(runtime="torch")
    published = WEIGHTS.find(options.data)
    figures, details = by_itself(own, films)
    figures = [*keyed(own, films, "own_", "our weights"), *figures, *snipped(own, films, "")]
    if published is not None:
        authors = _model(str(published))
        figures = [*keyed(authors, films, "", "authors' weights"), *figures, *snipped(authors, films, "authors_")]
    fast, times = speeds(own, films, effort)
    return [*figures, *fast], {**details, **times}


def _model(weights: str) -> PatchNet:
    """The matcher of a weights file, ours or the authors', or the structural start; without mean colour, as ours is."""
    if weights == "start":
        return PatchNet.from_network(Matcher(zero_mean=True))
    card = "patchnet-got10k" if weights.endswith((".pth", ".pt")) else "patchnet-synthetic"
    return PatchNet.from_pretrained(weights, card=card, runtime="torch")


def _add(made: argparse.ArgumentParser) -> None:
    made.add_argument("--weights", metavar="FILE", help="only how well these follow; `start`: the structural start")


def _cut(film: Sequence, effort: Effort) -> Sequence:
    return Sequence(film.frames[: effort.frames], film.truth[: effort.frames], film.folder)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    raise SystemExit(main(measure, __doc__ or "", _add))
