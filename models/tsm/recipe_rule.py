"""Which smoothing rule ships with the motion weights, chosen on the training side only: `recipe rule`.

A rule that shows every best class also shows the trembling of a camera. What it costs to ask for a score is measured here on
pictures, shapes and textures of the training side: false gestures on material without one, recall on rendered gestures. The
videos, pictures and shapes held out of training say nothing in this choice; `recipe real` reports on them afterwards.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from effvision._optional import import_cv2
from effvision.host.image import resize_crop
from effvision.models.tsm.clips import LABELS, Look, Media, render_segments
from effvision.models.tsm.clock import FrameClock
from effvision.models.tsm.network import TemporalNetwork
from effvision.models.tsm.recipe_data import FPS, SIZE, WARM_UP
from effvision.models.tsm.recipe_train import normalised
from effvision.models.tsm.smoothing import Smoothing
from effvision.sources import open_source

cv2: Any = import_cv2()

__all__ = [
    "LIMIT_PER_MINUTE",
    "REST",
    "Amount",
    "Gesture",
    "Material",
    "answers",
    "choose",
    "frame_logits",
    "gestures",
    "minutes",
    "noisy",
    "seen",
    "told",
    "training_material",
]

Array = NDArray[Any]

REST = LABELS.index("still")
LIMIT_PER_MINUTE = 1.0
"""False gestures a minute that a rule may show on each kind of quiet material."""
GRID = tuple(
    Smoothing(window=window, threshold=threshold, rest=REST)
    for window, threshold in itertools.product(range(1, 7), (0.5, 0.6, 0.7, 0.75, 0.8, 0.825, 0.85, 0.875, 0.9, 0.95))
)
_QUIET_FILMS = ("bottle-detection", "store-aisle-detection", "head-pose-face-detection-female",
                "head-pose-face-detection-female-and-male")  # fmt: skip
_LENGTHS = (4, 6, 9, 12, 18)  # frames of a gesture; quick strokes of a hand last a third of a second
_AFTER = 6  # frames after a gesture in which its label still counts: averaging lags


@dataclass(frozen=True)
class Amount:
    """How much material there is.

    Attributes:
        crops: Random crops of each training video, mirrored or played backwards at random.
        stills: Real pictures, 20 s each, with sensor noise; every second one trembles.
        rendered: Rendered `still` clips of 10 s: trembling camera, flickering things, people who drift slowly.
        gestures: Rendered gestures of each of five lengths, a second of `still` on both sides.
    """

    crops: int = 24
    stills: int = 30
    rendered: int = 60
    gestures: int = 144


@dataclass(frozen=True)
class Gesture:
    """A gesture in a stream: the index of its class, its first frame, its number of frames, logits of all frames (T, K)."""

    label: int
    start: int
    frames: int
    logits: Array


@dataclass(frozen=True)
class Material:
    """What a rule is judged on: logits (T, K) of quiet streams by kind, and gestures."""

    quiet: Mapping[str, Sequence[Array]]
    gestures: Sequence[Gesture]

    def __add__(self, other: Material) -> Material:
        """Both together."""
        quiet = {kind: [*self.quiet.get(kind, ()), *streams] for kind, streams in other.quiet.items()}
        return Material({**self.quiet, **quiet}, [*self.gestures, *other.gestures])


def frame_logits(network: TemporalNetwork, pictures: Array) -> Array:
    """Logits (T, K) of a stream (T, H, W, 3) uint8 RGB, prepared as the card says."""
    with torch.inference_mode():
        logits: Array = network.frame_logits(normalised(torch.from_numpy(pictures)[None]))[0].numpy()
    return logits


def answers(rule: Smoothing, logits: Array) -> list[int]:
    """Class shown at each frame of a stream (T, K), as a session shows it: averaging begins anew once it has settled."""
    memory, shown = rule.begin(), []
    for step, row in enumerate(logits):
        if step == WARM_UP:
            memory.logits = []
        shown.append(rule.update(row, memory)[0])
    return shown


def gestures(shown: Sequence[int]) -> list[int]:
    """Frames at which something else than `still` begins to be shown."""
    before = itertools.chain([REST], shown)
    return [index for index, (old, new) in enumerate(zip(before, shown, strict=False)) if new not in (old, REST)]


def minutes(streams: Sequence[Array]) -> float:
    """How long the streams are."""
    return sum(len(stream) for stream in streams) / FPS / 60


def seen(rule: Smoothing, gesture: Gesture) -> int | None:
    """Frames from the beginning of a gesture until its label is shown; None if it is not before it has been over for long."""
    shown = answers(rule, gesture.logits)[gesture.start : gesture.start + gesture.frames + _AFTER]
    return shown.index(gesture.label) + 1 if gesture.label in shown else None


def noisy(
    picture: Array, rng: np.random.Generator, *, frames: int, noise: float, shake: float = 0.0
) -> Iterator[Array]:
    """Film one picture: `noise` grey levels of sensor noise, `shake` pixels of trembling (deviations); frames uint8 RGB."""
    size = (picture.shape[1], picture.shape[0])
    for _ in range(frames):
        seen_now = picture.astype(np.float32)
        if shake:
            moved = np.hstack([np.eye(2), rng.normal(0, shake, (2, 1))])
            seen_now = cv2.warpAffine(seen_now, moved, size, borderMode=cv2.BORDER_REFLECT_101)
        seen_now = seen_now + rng.standard_normal(picture.shape, np.float32) * noise
        yield seen_now.round().clip(0, 255).astype(np.uint8)


def training_material(
    network: TemporalNetwork, *, root: Path | None, seed: int, amount: Amount | None = None
) -> Material:
    """Render and read the training side, and run the network over it. Without `root` only procedural pictures."""
    amount = amount or Amount()
    rng = np.random.default_rng((seed, 1 << 41))
    media = None if root is None else Media.load(root, "train")
    quiet: dict[str, list[Array]] = {}
    if root is not None and media is not None:
        quiet["training videos, cropped"] = [
            frame_logits(network, clip) for clip in tqdm(_crops(root, rng, amount.crops), desc="crops", mininterval=5)
        ]
        quiet["training pictures with noise"] = []
        for index in tqdm(range(amount.stills), desc="pictures", mininterval=5):
            picture = media.stills[rng.integers(len(media.stills))]
            shake = rng.uniform(0, 1.5) if index % 2 else 0.0
            film = noisy(picture, rng, frames=round(20 * FPS), noise=rng.uniform(1, 8), shake=shake)
            quiet["training pictures with noise"].append(frame_logits(network, np.stack([_prepared(f) for f in film])))
    quiet["rendered still"] = [
        frame_logits(network, _rendered([("still", 10.0)], rng, media))
        for _ in tqdm(range(amount.rendered), desc="still", mininterval=5)
    ]
    moving = [index for index in range(len(LABELS)) if index != REST]
    found = []
    for frames in _LENGTHS:
        for index in tqdm(range(amount.gestures), desc=f"gestures of {frames}", mininterval=5):
            label = moving[index % len(moving)]
            clip = _rendered([("still", 1.0), (LABELS[label], frames / FPS), ("still", 1.0)], rng, media)
            found.append(Gesture(label, round(FPS), frames, frame_logits(network, clip)))
    return Material(quiet, found)


def _rendered(segments: list[tuple[str, float]], rng: np.random.Generator, media: Media | None) -> Array:
    return render_segments(
        segments, size=(SIZE, SIZE), fps=FPS, seed=int(rng.integers(1 << 62)), media=media, look=Look.train(), joined=True
    )[0]  # fmt: skip


def _prepared(image: Array) -> Array:
    return resize_crop(image, short_side=SIZE, size=(SIZE, SIZE), mode="center")


def _crops(root: Path, rng: np.random.Generator, count: int) -> Iterator[Array]:
    """Random parts of the quiet training videos at the network's rate; a part makes what moves larger and faster."""
    for name in _QUIET_FILMS:
        with open_source(root / "video" / "intel" / f"{name}.mp4") as source:
            clock = FrameClock(1 / FPS, 1.0)
            film = [frame.image for frame in source if clock.tick(frame.timestamp)]
        for _ in range(count):
            height, width = film[0].shape[:2]
            tall = int(height * rng.uniform(0.5, 1))
            wide = min(width, int(tall * 4 / 3))
            top, left = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
            clip = np.stack([_prepared(image[top : top + tall, left : left + wide]) for image in film])
            clip = clip[:, :, ::-1] if rng.uniform() < 0.5 else clip
            yield np.ascontiguousarray(clip[::-1] if rng.uniform() < 0.5 else clip)


@dataclass(frozen=True)
class Judged:
    """One rule: false gestures a minute by kind of quiet material, recall by frames of a gesture, median frames until shown."""

    rule: Smoothing
    false: Mapping[str, float]
    recall: Mapping[int, float]
    frames: float

    @property
    def mean_recall(self) -> float:
        """Over the lengths."""
        return sum(self.recall.values()) / len(self.recall)

    @property
    def allowed(self) -> bool:
        """Whether every kind of quiet material stays within the limit."""
        return all(rate <= LIMIT_PER_MINUTE for rate in self.false.values())

    def row(self) -> dict[str, Any]:
        """As plain numbers."""
        rule = {"window": self.rule.window, "threshold": self.rule.threshold, "rest": self.rule.rest}
        return {
            "rule": rule, "false_per_minute": dict(self.false),
            "recall": {str(frames): share for frames, share in self.recall.items()}, "frames_until_shown": self.frames,
        }  # fmt: skip


def judge(rule: Smoothing, material: Material) -> Judged:
    """Measure one rule."""
    false = {
        kind: sum(len(gestures(answers(rule, stream))) for stream in streams) / minutes(streams)
        for kind, streams in material.quiet.items()
    }
    when = [(gesture.frames, seen(rule, gesture)) for gesture in material.gestures]
    recall = {n: float(np.mean([at is not None for frames, at in when if frames == n])) for n, _ in when}
    shown = [at for _, at in when if at is not None]
    return Judged(rule, false, recall, float(np.median(shown)) if shown else float("nan"))


def choose(material: Material) -> tuple[Judged, list[Judged]]:
    """The rule of the grid with the highest mean recall among those within the limit (the quietest if there is none)."""
    judged = [judge(rule, material) for rule in GRID]
    allowed = [one for one in judged if one.allowed]
    if not allowed:
        return min(judged, key=lambda one: max(one.false.values())), judged
    return max(allowed, key=lambda one: one.mean_recall), judged


def told(chosen: Judged, judged: Sequence[Judged], plain: Judged) -> str:
    """A table of the rules, the plain one of before first."""
    kinds = list(plain.false)
    lines = [
        "false gestures a minute on the training side, recall of rendered gestures by length in frames (12 a second)",
        f"{'window':>6} {'score':>6}  " + "  ".join(f"{kind:>28}" for kind in kinds)
        + "  " + " ".join(f"{n:>6}" for n in plain.recall) + "   shown after",
    ]  # fmt: skip
    for one in (plain, *judged):
        mark = " <- chosen" if one is chosen else "" if one is not plain else " (no threshold)"
        lines.append(
            f"{one.rule.window:>6} {one.rule.threshold:>6.3f}  "
            + "  ".join(f"{rate:>28.2f}" for rate in one.false.values())
            + "  " + " ".join(f"{share:>6.1%}" for share in one.recall.values())
            + f"   {one.frames / FPS:.2f} s{mark}"
        )  # fmt: skip
    return "\n".join(lines)
