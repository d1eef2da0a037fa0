"""How the splits of the procedural objects differ: every number and every variant that matters is drawn through a `Draw`.

A key parameter with range [low, high] is low + u (high - low). `train` draws u from 0.2..0.8, `development` from 0.1..0.2 and
0.8..0.9, `held-out` from 0..0.1 and 0.9..1, so no two splits share a value of any key parameter. Structural variants may belong
to one split alone: `development` and `held-out` draw one of their own half the time, where the object has one, and one of
training's otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["BANDS", "SPLITS", "Draw"]

SPLITS = ("train", "development", "held-out")
BANDS: dict[str, tuple[tuple[float, float], ...]] = {
    "train": ((0.2, 0.8),),
    "development": ((0.1, 0.2), (0.8, 0.9)),
    "held-out": ((0.0, 0.1), (0.9, 1.0)),
}
"""Where the share u of a key parameter's range lies in each split; the bands touch and do not overlap."""


class Draw:
    """The random choices behind one object.

    Args:
        rng: Everything random.
        split: One of `SPLITS`.

    Attributes:
        shares: u of every key parameter drawn so far.
        variants: Every structural variant drawn so far.
    """

    def __init__(self, rng: np.random.Generator, split: str) -> None:
        self.rng, self.split = rng, split
        self.shares: dict[str, float] = {}
        self.variants: dict[str, str] = {}

    def key(self, name: str, low: float, high: float) -> float:
        """A parameter whose range is divided between the splits."""
        bands = BANDS[self.split]
        begin, end = bands[self.rng.integers(len(bands))]
        share = float(begin + self.rng.random() * (end - begin))
        self.shares[name] = share
        return low + share * (high - low)

    def free(self, low: float, high: float) -> float:
        """A parameter drawn alike in every split."""
        return float(self.rng.uniform(low, high))

    def flip(self, share: float) -> bool:
        """True with this probability, in every split."""
        return bool(self.rng.random() < share)

    def whole(self, *numbers: int) -> int:
        """One of a few whole numbers, in every split."""
        return int(self.rng.choice(numbers))

    def variant(
        self, name: str, train: tuple[str, ...], *, held: tuple[str, ...] = (), development: tuple[str, ...] = ()
    ) -> str:
        """A structural variant; `held` and `development` are those of the two other splits alone."""
        own: dict[str, Any] = {"train": (), "development": development, "held-out": held}
        options = own[self.split] if own[self.split] and self.rng.random() < 0.5 else train
        chosen = str(options[self.rng.integers(len(options))])
        self.variants[name] = chosen
        return chosen
