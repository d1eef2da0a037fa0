"""The motion weights as they ship, streaming: false gestures on real video kept out of training, and the price in recall.

Everything is answered twice from the same logits: by the card's rule, and by its window of before (three frames, no score asked
for), so that what the rule gains and costs stands side by side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from effvision.models.tsm.clips import LABELS
from effvision.models.tsm.clips_media import video_names
from effvision.models.tsm.network import TemporalNetwork
from effvision.models.tsm.predictor import TSM
from effvision.models.tsm.recipe_data import FPS, labelled_clips
from effvision.models.tsm.recipe_evaluate import VALIDATION_SEED
from effvision.models.tsm.recipe_hands import Span
from effvision.models.tsm.recipe_rule import REST, Gesture, answers, frame_logits, gestures, noisy, seen
from effvision.models.tsm.smoothing import Smoothing
from effvision.results import Classification
from effvision.sources import open_source

__all__ = [
    "PLAIN",
    "QUIET",
    "Price",
    "Watched",
    "held_out_videos",
    "measure_price",
    "strokes_shown",
    "watch",
    "watch_noise",
    "watch_videos",
]

Array = NDArray[Any]
Timed = list[tuple[Array, float]]

PLAIN = Smoothing(window=3)
"""The rule these weights had first."""
QUIET = ("classroom", "people-detection", "face-demographics-walking", "face-demographics-walking-and-pause")
"""Held-out videos of people who sit, stand or walk: whatever gesture is shown there is counted as false."""
_NOISE = 4.0  # grey levels
_NOISE_S = 60.0
_WARM = 6  # frames of another motion before the one that counts
_LEAD_S = 1.0  # a person at rest before a sign clip begins, which starts with the stroke itself
_LATE_S = 0.5


@dataclass(frozen=True)
class Watched:
    """One stream and what was shown.

    Attributes:
        name: What it is.
        seconds: How long it is.
        times: When the network ran, in seconds.
        shown: What each rule, `shipped` or `plain`, showed then.
    """

    name: str
    seconds: float
    times: Sequence[float]
    shown: Mapping[str, Sequence[int]]

    def gestures(self, rule: str) -> list[tuple[float, str]]:
        """When something else than `still` began to be shown, and what."""
        return [(self.times[at], LABELS[self.shown[rule][at]]) for at in gestures(self.shown[rule])]

    def facts(self) -> dict[str, Any]:
        """As plain numbers: shares of time by label, and the gestures of each rule."""
        count = len(self.times)
        return {
            "name": self.name, "seconds": round(self.seconds, 2),
            "share_of_frames": {
                rule: {LABELS[k]: round(n / count, 3) for k, n in Counter(shown).most_common()}
                for rule, shown in self.shown.items()
            },
            "gestures": {rule: [[round(at, 2), what] for at, what in self.gestures(rule)] for rule in self.shown},
        }  # fmt: skip


def watch(model: TSM, name: str, frames: Iterable[tuple[Array, float]]) -> Watched:
    """Stream frames with their timestamps through a session with the model's own settings."""
    session, times, stamps = model.session(), [], []
    shipped, logits = [], []
    for image, stamp in frames:
        result = cast(Classification, session.update(image, timestamp=stamp))
        stamps.append(stamp)
        if result.fresh:
            times.append(stamp)
            shipped.append(result.chosen)
            logits.append(result.logits)
    spacing = (stamps[-1] - stamps[0]) / max(1, len(stamps) - 1)
    shown = {"shipped": shipped, "plain": answers(PLAIN, np.stack(logits))}
    return Watched(name, stamps[-1] - stamps[0] + spacing, times, shown)


def held_out_videos(root: Path) -> list[Path]:
    """Every clip below `video` that is no background of training."""
    return sorted(path for path in (root / "video").rglob("*.mp4") if path.stem not in video_names("train"))


def watch_videos(model: TSM, paths: Sequence[Path], *, variants: bool = False) -> list[Watched]:
    """Stream clips at their own timestamps; with `variants` mirrored, backwards and both instead of as they are."""
    found = []
    for path in tqdm(paths, desc="videos", mininterval=5):
        film = _read(path)
        if not variants:
            found.append(watch(model, path.stem, film))
            continue
        stamps = [stamp for _, stamp in film]
        backwards = [(image, stamp) for (image, _), stamp in zip(reversed(film), stamps, strict=True)]
        mirrored, both = ([(image[:, ::-1], stamp) for image, stamp in clip] for clip in (film, backwards))
        for title, clip in (("mirrored", mirrored), ("backwards", backwards), ("mirrored, backwards", both)):
            found.append(watch(model, f"{path.stem}, {title}", clip))
    return found


def watch_noise(model: TSM, paths: Sequence[Path], *, seed: int, seconds: float = _NOISE_S) -> list[Watched]:
    """Stream the middle frame of each clip for a minute under sensor noise: video of a scene in which time stands still."""
    found = []
    for index, path in enumerate(tqdm(paths, desc="still frames", mininterval=5)):
        film = _read(path)
        middle = film[len(film) // 2][0]
        frames = noisy(middle, np.random.default_rng((seed, 1 << 42, index)), frames=round(seconds * FPS), noise=_NOISE)
        found.append(watch(model, f"{path.stem}, one frame", ((image, at / FPS) for at, image in enumerate(frames))))
    return found


def _read(path: Path) -> Timed:
    with open_source(path) as source:
        return [(frame.image, frame.timestamp) for frame in source]


@dataclass(frozen=True)
class Price:
    """Recall and delay on rendered held-out gestures under one rule.

    Attributes:
        found: Gestures whose label was shown, and gestures, by class (`still` apart).
        frames: Frames from the beginning of a gesture until its label was shown, for those found.
        false: `still` clips in which a gesture began to be shown, and `still` clips.
    """

    found: Mapping[str, tuple[int, int]]
    frames: Sequence[int]
    false: tuple[int, int]

    @property
    def recall(self) -> tuple[int, int]:
        """Found and all."""
        return sum(hit for hit, _ in self.found.values()), sum(count for _, count in self.found.values())

    def facts(self) -> dict[str, Any]:
        """As plain numbers."""
        hit, count = self.recall
        late = np.percentile(self.frames, (50, 90)) / FPS if self.frames else (float("nan"),) * 2
        return {
            "found": hit, "gestures": count, "recall": hit / max(1, count),
            "by_class": {label: one / max(1, of) for label, (one, of) in self.found.items()},
            "seconds_until_shown": {"median": round(float(late[0]), 3), "90 %": round(float(late[1]), 3)},
            "still_clips_with_a_gesture": list(self.false),
        }  # fmt: skip


def measure_price(
    network: TemporalNetwork, rules: Mapping[str, Smoothing], *, root: Path | None, frames: int, clips: int
) -> dict[str, Price]:
    """Show every rule the same rendered validation clips: `frames` of a motion after half a second of another one."""
    rendered = labelled_clips("validation", clips, root=root, seed=VALIDATION_SEED, frames=frames, warm=_WARM)
    made = [
        Gesture(label, _WARM, frames, frame_logits(network, clip))
        for clip, label in tqdm(rendered, total=clips, desc=f"gestures of {frames}", mininterval=5)
    ]
    return {name: _price(rule, made) for name, rule in rules.items()}


def _price(rule: Smoothing, made: Sequence[Gesture]) -> Price:
    found: dict[str, tuple[int, int]] = {}
    frames, false, still = [], 0, 0
    for gesture in made:
        if gesture.label == REST:
            still += 1
            # what the motion before leaves behind is no new gesture
            false += any(at > gesture.start + rule.window for at in gestures(answers(rule, gesture.logits)))
            continue
        at = seen(rule, gesture)
        hit, count = found.get(LABELS[gesture.label], (0, 0))
        found[LABELS[gesture.label]] = (hit + (at is not None), count + 1)
        if at is not None:
            frames.append(at)
    return Price(found, frames, (false, still))


def strokes_shown(model: TSM, spans: Sequence[Span], folder: Path) -> dict[str, tuple[int, int]]:
    """Strokes of the sign clips whose `up` or `down` is shown while they last or half a second after, and strokes, by rule."""
    found = dict.fromkeys(("shipped", "plain"), 0)
    for name in sorted({span.name.split()[0] for span in spans}):
        film = _read(folder / name)
        lead = [(film[0][0], film[0][1] - _LEAD_S + at / FPS) for at in range(round(_LEAD_S * FPS))]
        seen_now = watch(model, name, lead + film)
        for span in (one for one in spans if one.name.split()[0] == name):
            begin, end = film[span.start][1], film[span.end][1] + _LATE_S
            wanted = LABELS.index("up" if span.raises else "down")
            for rule, shown in seen_now.shown.items():
                during = (k for k, at in zip(shown, seen_now.times, strict=True) if begin <= at <= end)
                found[rule] += wanted in during
    return {rule: (count, len(spans)) for rule, count in found.items()}
