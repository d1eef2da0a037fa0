"""Which range of each activation the 256 steps of int8 are spread over, found from what passes through in real use.

Three rules, from the same counts:

    minmax      the smallest and the largest number seen: nothing is cut off, and one outlier makes every step coarse
    percentile  what all but one number in 10,000 on either side lie within
    mse         the range with the least mean squared error, rounding and cutting off together: OCTAV (Sakr et al., "Optimal
                Clipping and Magnitude-aware Differentiation for Improved Quantization-aware Training", ICML 2022, section 3),
                whose fixed point is stated there for ranges around zero and from zero on; here also for any that holds zero

Every range holds zero, so that padding and what a ReLU cuts off stay exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision.errors import InputError
from effvision.export.precision import Rule

__all__ = ["Counts", "Range", "choose_range", "squared_error"]

Range = tuple[float, float]
Array = NDArray[Any]

_BINS = 2048
_STEPS = 255  # between the 256 values of int8
_OUTSIDE = 1e-4  # of the numbers on either side, for `percentile`
_ROUNDS = 100
_LEAST = 1e-30  # what stays below is noise around zero, and too small for 2,048 bins of float32


class Counts:
    """How often each number came through each tensor, as a histogram of `_BINS` bins; needs two passes over the same data.

    Zeros are counted apart: they are exact in every range, and behind a ReLU there are so many that taking them for small
    numbers would narrow the range.

    `see` every step of the first pass, then `count` every step of the second.
    """

    def __init__(self) -> None:
        self.extents: dict[str, Range] = {}
        self._counts: dict[str, NDArray[np.int64]] = {}
        self._zeros: dict[str, int] = {}

    def see(self, tensors: Mapping[str, Array]) -> None:
        """First pass: widen the extents.

        Raises:
            InputError: a number is not finite.
        """
        for name, values in tensors.items():
            if not values.size:
                continue
            low, high = float(values.min()), float(values.max())
            if not np.isfinite([low, high]).all():
                raise InputError(
                    f"the calibration data make the network compute infinite numbers or NaN (in `{name}`)\n"
                    "hint: give frames the model can work with"
                )
            before = self.extents.get(name, (0.0, 0.0))
            self.extents[name] = (min(before[0], low), max(before[1], high))

    def count(self, tensors: Mapping[str, Array]) -> None:
        """Second pass: fill the histograms between the extents."""
        for name, values in tensors.items():
            if name not in self.extents:
                continue
            low, high = self.extents[name]
            if high - low < _LEAST:
                continue
            others = values[values != 0].astype(np.float64)
            found, _ = np.histogram(others, bins=_BINS, range=(low, high))
            self._counts[name] = self._counts.get(name, np.zeros(_BINS, np.int64)) + found
            self._zeros[name] = self._zeros.get(name, 0) + values.size - others.size

    def ranges(self, rule: Rule, *, symmetric: bool) -> dict[str, Range]:
        """Return the range of every tensor by a rule; `symmetric` ones reach as far below zero as above."""
        found: dict[str, Range] = {}
        for name, (low, high) in self.extents.items():
            if high - low < _LEAST:
                found[name] = (-1.0, 1.0) if symmetric else (0.0, 1.0)  # nothing but zeros: any range will do
                continue
            edges = np.linspace(low, high, _BINS + 1)
            middles = (edges[1:] + edges[:-1]) / 2
            place = int(np.searchsorted(middles, 0.0))
            values = np.insert(middles, place, 0.0)
            counts = np.insert(self._counts[name], place, self._zeros[name])
            found[name] = choose_range(values, counts, (low, high), rule, symmetric)
        return found


def choose_range(values: Array, counts: Array, extent: Range, rule: Rule, symmetric: bool) -> Range:
    """Return the range by a rule for numbers given as values and how often each came.

    Args:
        values: (B,) ascending, such as the middles of a histogram's bins; what is exactly zero costs nothing.
        counts: (B,) how often.
        extent: The smallest and largest number, zero between them.
        rule: `mse`, `minmax` or `percentile`.
        symmetric: As far below zero as above.
    """
    low, high = extent
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    if rule == "minmax":
        return low, high
    if rule == "percentile":
        total = np.cumsum(counts) / counts.sum()
        first = float(values[np.searchsorted(total, _OUTSIDE)])
        last = float(values[min(len(values) - 1, int(np.searchsorted(total, 1 - _OUTSIDE)))])
        first, last = min(0.0, max(low, first)), max(0.0, min(high, last))
        if symmetric:
            first, last = -max(-first, last), max(-first, last)
        return (first, last) if last > first else (low, high)
    found = _octav_symmetric(values, counts, high) if symmetric else _octav(values, counts, (low, high))
    # the fixed point is a local minimum; the whole range must not be better
    return min([(low, high), found], key=lambda pair: squared_error(values, counts, pair))


def squared_error(values: Array, counts: Array, limits: Range) -> float:
    """Mean squared error of int8 over a range: a twelfth of a step squared inside (zeros are exact), the distance outside."""
    low, high = limits
    step = (high - low) / _STEPS
    outside = np.maximum(values - high, 0.0) + np.maximum(low - values, 0.0)
    inside = (outside == 0) & (values != 0)
    return float((counts * np.where(inside, step * step / 12, outside**2)).sum() / counts.sum())


def _octav(values: Array, counts: Array, extent: Range) -> Range:
    """Each end where the derivative of the squared error is zero, the other end held, in turns until both stand."""
    low, high = extent
    above, below = extent[1] > 0, extent[0] < 0
    share = counts / counts.sum()
    rounding = 1.0 / (12 * _STEPS**2)
    for _ in range(_ROUNDS):
        before = (low, high)
        inner = rounding * float(share[(values >= low) & (values <= high) & (values != 0)].sum())
        over, under = values > high, values < low
        if above:
            high = (float((share * values)[over].sum()) + inner * low) / max(float(share[over].sum()) + inner, 1e-30)
            high = min(max(high, 0.0), extent[1])
        if below:
            low = (float((share * values)[under].sum()) + inner * high) / max(float(share[under].sum()) + inner, 1e-30)
            low = max(min(low, 0.0), extent[0])
        if np.allclose(before, (low, high), rtol=1e-6, atol=0):
            break
    return (low, high) if high > low else extent


def _octav_symmetric(values: Array, counts: Array, reach: float) -> Range:
    """OCTAV as published, for a range around zero."""
    size, share = np.abs(values), counts / counts.sum()
    rounding = 4.0 / (12 * _STEPS**2)
    limit = float((share * size).sum() / max(float(share[size > 0].sum()), 1e-30))
    for _ in range(_ROUNDS):
        over = size > limit
        inner = rounding * float(share[(size > 0) & ~over].sum())
        following = float((share * size)[over].sum()) / max(float(share[over].sum()) + inner, 1e-30)
        if abs(following - limit) <= 1e-6 * limit:
            break
        limit = following
    limit = min(limit, reach)
    return (-limit, limit) if limit > 0 else (-reach, reach)
