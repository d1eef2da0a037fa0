"""The motion weights on real hands: `raise` and `lower` in the sign clips of `gestures/asl`, none of which training has seen.

Each clip's hands go up and down once (`labels.csv`, frames marked by hand). A stroke is eight frames, uniform over its span,
prepared as the card says; it is also shown backwards under the other label. So the two classes hold the same still frames,
and what does not know the order of frames is at 50 %. Signers are left out one at a time, and nothing is
chosen on the one left out.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effvision.errors import SourceError
from effvision.host.image import resize_crop
from effvision.models.tsm.clips import LABELS
from effvision.models.tsm.network import TemporalNetwork
from effvision.models.tsm.recipe_data import SIZE, WARM_UP
from effvision.models.tsm.recipe_evaluate import wilson
from effvision.models.tsm.recipe_train import normalised
from effvision.sources import open_source

__all__ = ["FRAMES", "Answer", "Hands", "Span", "folds", "measure_hands", "read_spans", "twins"]

Array = NDArray[Any]

FRAMES = 8
"""Frames sampled across a span."""
_UP, _DOWN = LABELS.index("up"), LABELS.index("down")
_STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)  # of the ridge, weakest first
# (frames added to the start, to the end, mirrored): what the fitted classifier sees of each training stroke
_VARIANTS = ((0, 0, False), (0, 0, True), (-2, 2, False), (2, -2, True), (-2, -2, True), (2, 2, False))


@dataclass(frozen=True)
class Span:
    """One stroke of a clip.

    Attributes:
        name: The clip's file and the stroke.
        signer: Who signs.
        raises: Whether the hands go up.
        film: The whole clip (T, 96, 96, 3) uint8 RGB, prepared.
        start: First frame.
        end: Last frame.
    """

    name: str
    signer: str
    raises: bool
    film: Array
    start: int
    end: int

    def clip(self, *, before: int = 0, after: int = 0, mirrored: bool = False) -> Array:
        """Eight frames (8, 96, 96, 3), uniform from the first to the last; the ends may be moved, the picture mirrored."""
        last = len(self.film) - 1
        start = min(max(self.start + before, 0), last)
        picked = np.linspace(start, max(start, min(self.end + after, last)), FRAMES).round().astype(int)
        clip = self.film[picked]
        return np.ascontiguousarray(clip[:, :, ::-1] if mirrored else clip)


@dataclass(frozen=True)
class Answer:
    """One clip of a pair: its stroke, whether it goes up as shown, and the answer."""

    span: Span
    truth: bool
    said: bool


@dataclass(frozen=True)
class Hands:
    """Answers of one method."""

    method: str
    given: Sequence[Answer]

    def right(self, signer: str | None = None) -> tuple[int, int]:
        """Right clips and clips, of one signer or of all."""
        own = [one for one in self.given if signer in (None, one.span.signer)]
        return sum(one.said == one.truth for one in own), len(own)

    def signers(self) -> list[str]:
        """Whose strokes there are."""
        return sorted({one.span.signer for one in self.given})

    def facts(self) -> dict[str, Any]:
        """As plain numbers; the interval takes a pair for one trial, since its two clips are the same pictures."""
        right, clips = self.right()
        shares = {who: self.right(who)[0] / self.right(who)[1] for who in self.signers()}
        low, high = wilson(right / 2, clips // 2)
        return {
            "right": right, "clips": clips, "spans": clips // 2, "accuracy": right / max(1, clips),
            "interval_95_by_spans": [low, high], "by_signer": shares,
            "clips_by_signer": {who: self.right(who)[1] for who in self.signers()},
            "mean_of_signers": sum(shares.values()) / max(1, len(shares)),
        }  # fmt: skip

    def __str__(self) -> str:
        facts = self.facts()
        low, high = facts["interval_95_by_spans"]
        own = "  ".join(f"{who} {self.right(who)[0]:>2}/{self.right(who)[1]:<2}" for who in self.signers())
        return (
            f"{self.method:44} {own}  mean of signers {facts['mean_of_signers']:6.1%}  pooled "
            f"{facts['right']}/{facts['clips']} = {facts['accuracy']:.1%} ({low:.1%} .. {high:.1%}, n={facts['spans']})"
        )


def read_spans(folder: Path) -> list[Span]:
    """Read every marked stroke of `labels.csv` and the clips beside it.

    Raises:
        SourceError: the table or a clip is missing, or a row is no row of it.
    """
    table = folder / "labels.csv"
    try:
        rows = list(csv.DictReader(table.read_text("utf-8").splitlines()))
    except OSError as error:
        raise SourceError(
            f"cannot read {table}: {error.strerror}\nhint: give `--data` the folder that holds gestures/asl"
        ) from error
    spans = []
    for row in rows:
        try:
            marked = [(kind, int(row[f"{kind}_start"]), int(row[f"{kind}_end"])) for kind in ("raise", "lower")]
            name, signer = row["file"], row["signer"]
        except (KeyError, TypeError, ValueError) as error:
            raise SourceError(f"{table} has a row without file, signer or frame numbers: {row}") from error
        with open_source(folder / name) as source:
            film = np.stack(
                [resize_crop(frame.image, short_side=SIZE, size=(SIZE, SIZE), mode="center") for frame in source]
            )
        spans += [
            Span(f"{name} {kind}", signer, kind == "raise", film, start, end)
            for kind, start, end in marked
            if 0 <= start <= end < len(film)
        ]
    return spans


def twins(clip: Array) -> tuple[Array, Array]:
    """A clip and the same frames backwards."""
    return clip, np.ascontiguousarray(clip[::-1])


def folds(spans: Sequence[Span]) -> Iterator[tuple[list[Span], list[Span]]]:
    """Yield (training strokes, strokes of the signer left out), each signer once."""
    for signer in sorted({span.signer for span in spans}):
        yield [one for one in spans if one.signer != signer], [one for one in spans if one.signer == signer]


class Eye:
    """What a network says of a clip: the mean logits and the mean of the last layer's inputs, over the frames that count.

    A causal network counts frames from where it has settled. One without shift sees no order: its frames are computed one by
    one (each picture once) and sorted before they are added: a clip and its twin give the same numbers to the last bit.
    """

    def __init__(self, network: TemporalNetwork) -> None:
        self.network = network
        self.ordered = network.direction != "none"
        self._heard: list[Tensor] = []
        self._known: dict[bytes, tuple[Tensor, Tensor]] = {}
        last = network.network.get_submodule("classifier")
        last.register_forward_pre_hook(lambda _module, inputs: self._heard.append(inputs[0]))

    def __call__(self, clip: Array) -> tuple[Array, Array]:
        """(T, H, W, 3) uint8 RGB -> logits (K,), features (D,), float64."""
        if self.ordered:
            logits, features = self._run(clip)
        else:
            for frame in clip:
                if (key := frame.tobytes()) not in self._known:
                    self._known[key] = self._run(frame[None])
            pairs = [self._known[frame.tobytes()] for frame in clip]
            logits, features = (torch.cat(rows) for rows in zip(*pairs, strict=True))
        return self._mean(logits), self._mean(features)

    def _run(self, clip: Array) -> tuple[Tensor, Tensor]:
        """(T, K) and (T, D) of a clip from a fresh start."""
        self._heard.clear()
        with torch.inference_mode():
            logits = self.network.frame_logits(normalised(torch.from_numpy(np.ascontiguousarray(clip))[None]))[0]
        return logits, self._heard[0]

    def _mean(self, rows: Tensor) -> Array:
        numbers: Array = rows.double().numpy()
        mean: Array = (numbers[WARM_UP:] if self.ordered else np.sort(numbers, axis=0)).mean(axis=0)
        return mean


@dataclass(frozen=True)
class _Seen:
    """One clip as numbers: the stroke, whether it goes up as shown, logits (K,), features (D,), and if it is a variant."""

    span: Span
    truth: bool
    logits: Array
    features: Array
    variant: bool


def _look(eye: Eye, spans: Sequence[Span]) -> list[_Seen]:
    found = []
    for span in spans:
        for before, after, mirrored in _VARIANTS:
            pair = twins(span.clip(before=before, after=after, mirrored=mirrored))
            for shown, truth in zip(pair, (span.raises, not span.raises), strict=True):
                found.append(_Seen(span, truth, *eye(shown), variant=bool(before or after or mirrored)))
    return found


class _Ridge:
    """Least squares to +1 and -1 with a penalty, on features scaled to unit deviation; solved among the clips (few)."""

    def __init__(self, clips: Sequence[_Seen], strength: float) -> None:
        rows = np.stack([clip.features for clip in clips])
        self.mean, self.scale = rows.mean(axis=0), rows.std(axis=0) + 1e-6
        self.rows = (rows - self.mean) / self.scale
        targets = np.array([1.0 if clip.truth else -1.0 for clip in clips])
        gram = self.rows @ self.rows.T / rows.shape[1] + strength * np.eye(len(rows))
        self.weights = np.linalg.solve(gram, targets) @ self.rows

    def says(self, clip: _Seen) -> bool:
        return bool(((clip.features - self.mean) / self.scale) @ self.weights > 0)


def _strength(clips: Sequence[_Seen]) -> float:
    """Choose the penalty by leaving out each of the training signers in turn; the strongest of the best."""
    signers = sorted({clip.span.signer for clip in clips})
    shares = []
    for strength in _STRENGTHS:
        own = []
        for signer in signers:
            ridge = _Ridge([clip for clip in clips if clip.span.signer != signer], strength)
            judged = [clip for clip in clips if clip.span.signer == signer and not clip.variant]
            own.append(np.mean([ridge.says(clip) == clip.truth for clip in judged]))
        shares.append(float(np.mean(own)))
    return max(zip(shares, _STRENGTHS, strict=True))[1]


def measure_hands(networks: dict[str, TemporalNetwork], spans: Sequence[Span]) -> list[Hands]:
    """Judge each network untrained on hands (`up` against `down`), and with a fitted classifier if there are three signers."""
    made = []
    for title, network in networks.items():
        clips = _look(Eye(network), spans)
        plain = [clip for clip in clips if not clip.variant]
        made.append(
            Hands(
                f"{title}: up against down, nothing fitted",
                [Answer(clip.span, clip.truth, bool(clip.logits[_UP] > clip.logits[_DOWN])) for clip in plain],
            )
        )
        if len({span.signer for span in spans}) < 3:  # one to test, two to choose the penalty by
            continue
        given = []
        for inside, outside in folds(spans):
            # by identity: a Span holds arrays, which do not compare
            kept, held = {id(span) for span in inside}, {id(span) for span in outside}
            train = [clip for clip in clips if id(clip.span) in kept]
            ridge = _Ridge(train, _strength(train))
            given += [Answer(clip.span, clip.truth, ridge.says(clip)) for clip in plain if id(clip.span) in held]
        made.append(Hands(f"{title}: ridge on its last features", given))
    return made
