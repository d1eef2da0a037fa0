"""How intervals of rows (or columns) travel through one operation of a network whose picture is edited.

A picture operation treats rows and columns alike and apart, so a rule needs only one axis at a time. All intervals are
half-open pairs of integers in pixels of their own map: [lo, hi) of the output, [a, b) of the input, n pixels in, m out.

    touches   which outputs may change when inputs [lo, hi) do            forward
    needs     which inputs outputs [lo, hi) are computed from, and how    backward
    core      where an edit lies in the output, without what leaks from it
    length    how many outputs the operation makes of so many inputs, borders at both ends

`how` is a hashable recipe that does not depend on where in the map the interval lies: two intervals with the same recipe can be
computed together as one batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Hashable, Sequence
from fractions import Fraction
from typing import Any

__all__ = [
    "Axis",
    "Pad",
    "Picked",
    "Same",
    "Shuffle",
    "Span",
    "Spread",
    "Unshuffle",
    "Weighted",
    "Whole",
    "Window",
    "as_data",
    "enlarged",
    "from_data",
]

Span = tuple[int, int]


def clipped(lo: int, hi: int, size: int) -> Span:
    """Cut an interval to [0, size); it may become empty."""
    return max(lo, 0), min(hi, size)


def one_or_more(lo: int, hi: int, size: int) -> Span:
    """Cut an interval to [0, size) and keep at least one pixel of it, the nearest one."""
    lo = min(max(lo, 0), size - 1)
    return lo, max(min(hi, size), lo + 1)


def enlarged(n: int, by: int) -> tuple[list[int], list[int]]:
    """The inputs below and above every output of a linear enlargement of n pixels, corners left where they are."""
    below = [max(2 * o + 1 - by, 0) // (2 * by) for o in range(n * by)]
    return below, [min(i + 1, n - 1) for i in below]


class Axis(ABC):
    """One axis of one operation; `n` pixels in, `m` pixels out."""

    def __init__(self, n: int, m: int) -> None:
        self.n = n
        self.m = m

    @abstractmethod
    def touches(self, lo: int, hi: int) -> Span:
        """Outputs that may change with inputs [lo, hi); empty if lo >= hi in the answer."""

    @abstractmethod
    def needs(self, lo: int, hi: int) -> tuple[int, int, Hashable]:
        """Inputs [a, b), never empty, from which outputs [lo, hi) follow, and the recipe `how`."""

    def core(self, lo: int, hi: int) -> Span:
        """Where inputs [lo, hi) lie in the output; at least one pixel."""
        return one_or_more(*self.touches(lo, hi), self.m)

    @property
    def pace(self) -> Fraction | None:
        """Pixels of the input for one of the output, where output 0 begins at input 0; None: every output needs all inputs."""
        return Fraction(1)

    def length(self, count: int) -> int:
        """Outputs that the operation makes of a map of `count` pixels, borders at both ends."""
        return count


class Same(Axis):
    """Pixel by pixel."""

    def touches(self, lo: int, hi: int) -> Span:
        """Themselves."""
        return lo, hi

    def needs(self, lo: int, hi: int) -> tuple[int, int, Hashable]:
        """Themselves."""
        return lo, hi, ()

    def core(self, lo: int, hi: int) -> Span:
        """Themselves."""
        return lo, hi


class Whole(Axis):
    """An input of one pixel that every output depends on."""

    def touches(self, lo: int, hi: int) -> Span:
        """Every output."""
        return 0, self.m

    def needs(self, lo: int, hi: int) -> tuple[int, int, Hashable]:
        """The one pixel."""
        return 0, self.n, ()

    @property
    def pace(self) -> Fraction | None:
        """None: all of it."""
        return None


class Window(Axis):
    """A window that slides over the input: convolution and pooling.

    Args:
        n, m: Pixels in and out.
        kernel, stride, padding, dilation: Of the window.
        after: Padding behind, where it is another than before.
    """

    def __init__(
        self, n: int, m: int, kernel: int, stride: int, padding: int, dilation: int = 1, after: int | None = None
    ) -> None:
        super().__init__(n, m)
        self.reach = dilation * (kernel - 1)
        self.stride = stride
        self.padding = padding
        self.after = padding if after is None else after

    @property
    def pace(self) -> Fraction:
        """The stride."""
        return Fraction(self.stride)

    def length(self, count: int) -> int:
        """As many as windows fit."""
        return (count + self.padding + self.after - self.reach - 1) // self.stride + 1

    def touches(self, lo: int, hi: int) -> Span:
        """Outputs whose window meets [lo, hi)."""
        first = -((self.reach - lo - self.padding) // self.stride)
        return clipped(first, (hi - 1 + self.padding) // self.stride + 1, self.m)

    def needs(self, lo: int, hi: int) -> tuple[int, int, Hashable]:
        """The windows' inputs; `how` is the padding missing before and after (negative: inputs to drop)."""
        start = lo * self.stride - self.padding
        stop = (hi - 1) * self.stride - self.padding + self.reach + 1
        a, b = one_or_more(start, stop, self.n)
        return a, b, (a - start, stop - b)

    def core(self, lo: int, hi: int) -> Span:
        """The outputs whose window has its middle here."""
        twice = 2 * self.stride
        first = (2 * (lo + self.padding) - self.reach) // twice
        last = -((self.reach - 2 * (hi - 1 + self.padding)) // twice)
        return one_or_more(first, last + 1, self.m)


class Spread(Axis):
    """A transposed convolution: every input is spread over a window of outputs."""

    def __init__(self, n: int, m: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> None:
        super().__init__(n, m)
        self.reach = dilation * (kernel - 1)
        self.stride = stride
        self.padding = padding

    @property
    def pace(self) -> Fraction:
        """One over the stride."""
        return Fraction(1, self.stride)

    def length(self, count: int) -> int:
        """So many windows, each a stride further, cut at both ends."""
        return self.m + (count - self.n) * self.stride

    def touches(self, lo: int, hi: int) -> Span:
        """The windows of [lo, hi)."""
        return clipped(lo * self.stride - self.padding, (hi - 1) * self.stride - self.padding + self.reach + 1, self.m)

    def needs(self, lo: int, hi: int) -> tuple[int, int, Hashable]:
        """Inputs whose window meets [lo, hi); `how`: where the answer lies in what they spread, and its length."""
        first = (lo + self.padding - self.reach) // self.stride
        a, b = one_or_more(first, (hi - 1 + self.padding) // self.stride + 1, self.n)
        return a, b, (lo - (a * self.stride - self.padding), hi - lo)

    def core(self, lo: int, hi: int) -> Span:
        """The middles of the windows, widened to the outputs between them."""
        first = (2 * (lo * self.stride - self.padding) + self.reach - self.stride + 1) // 2
        last = -((-2 * ((hi - 1) * self.stride - self.padding) - self.reach - self.stride + 1) // 2)
        return one_or_more(first, last + 1, self.m)


class Pad(Axis):
    """Pixels added at the borders or, with negative numbers, cut off; also a slice of the map.

    Args:
        n, m: Pixels in and out.
        before: Pixels added in front.
        mode: As `torch.nn.functional.pad`: constant, reflect, replicate or circular.
    """

    def __init__(self, n: int, m: int, before: int, mode: str) -> None:
        super().__init__(n, m)
        self.before = before
        self.mode = mode

    def length(self, count: int) -> int:
        """So many more."""
        return count + self.m - self.n

    def touches(self, lo: int, hi: int) -> Span:
        """The pixels themselves and the copies of them in the border."""
        first, last = lo + self.before, hi + self.before
        if self.mode == "circular":
            return 0, self.m
        after = self.m - self.n - self.before
        if self.mode == "replicate":
            first = 0 if lo == 0 else first
            last = self.m if hi == self.n else last
        elif self.mode == "reflect":
            if lo <= self.before and hi > 1:  # pixel i is also at before - i
                first = min(first, max(self.before - hi + 1, 0))
                last = max(last, self.before - max(lo, 1) + 1)
            if hi >= self.n - after and lo < self.n - 1:  # and at before + 2 (n - 1) - i
                last = max(last, min(self.before + 2 * (self.n - 1) - lo + 1, self.m))
                first = min(first, self.before + 2 * (self.n - 1) - min(hi - 1, self.n - 2))
        return clipped(first, last, self.m)

    def needs(self, lo: int, hi: int) -> tuple[int, int, Hashable]:
        """`how`: pixels to add before and after what was given, where the answer starts then, and its length."""
        front = max(0, self.before - lo)
        back = max(0, hi - self.before - self.n)
        if self.mode == "circular" and (front or back):
            return 0, self.n, (front, back, 0 if front else lo - self.before, hi - lo)
        a, b = one_or_more(lo - self.before, hi - self.before, self.n)
        if self.mode == "reflect":
            b = max(b, front + 1) if front else b
            a = min(a, self.n - 1 - back) if back else a
        start = 0 if front else lo - (a + self.before)
        return a, b, (front, back, start, hi - lo)

    def core(self, lo: int, hi: int) -> Span:
        """The pixels themselves, without their copies."""
        return one_or_more(lo + self.before, hi + self.before, self.m)


class Picked(Axis):
    """Each output is one input, in rising order: interpolation to the nearest.

    Args:
        n: Pixels in.
        index: The input of every output.
    """

    def __init__(self, n: int, index: Sequence[int]) -> None:
        super().__init__(n, len(index))
        self.index = list(index)
        factor = self.m // n if self.m % n == 0 else 0
        self.factor = factor if factor and self.index == [o // factor for o in range(self.m)] else 0
        every = n // self.m if n % self.m == 0 else 0
        self.every = every if every and self.index == [o * every for o in range(self.m)] else 0

    @property
    def pace(self) -> Fraction | None:
        """One over the factor, or every how many inputs one is taken; None where it is no whole number."""
        return Fraction(1, self.factor) if self.factor else Fraction(self.every) if self.every else None

    def length(self, count: int) -> int:
        """By the factor more, or one of so many."""
        return count * self.factor if self.factor else -(-count // self.every) if self.every else self.m

    def touches(self, lo: int, hi: int) -> Span:
        """Outputs that show these inputs."""
        return bisect_left(self.index, lo), bisect_left(self.index, hi)

    def needs(self, lo: int, hi: int) -> tuple[int, int, Hashable]:
        """`how`: (factor, start, length) where each input is repeated, else (0, positions)."""
        a, b = self.index[lo], self.index[hi - 1] + 1
        if self.factor:
            return a, b, (self.factor, lo - a * self.factor, hi - lo)
        return a, b, (0, tuple(i - a for i in self.index[lo:hi]))


class Weighted(Axis):
    """Each output is a weighted sum of two inputs, in rising order: linear interpolation.

    Args:
        n: Pixels in.
        below, above: The two inputs of every output.
        weight: The weight of `above`.
    """

    def __init__(self, n: int, below: Sequence[int], above: Sequence[int], weight: Sequence[float]) -> None:
        super().__init__(n, len(below))
        self.below, self.above, self.weight = list(below), list(above), list(weight)

    @property
    def pace(self) -> Fraction | None:
        """One over the factor of an enlargement that leaves the corners where they are; None of any other."""
        by = self.m // self.n if self.m % self.n == 0 else 0
        return Fraction(1, by) if by and (self.below, self.above) == enlarged(self.n, by) else None

    def length(self, count: int) -> int:
        """By the factor more."""
        return count * (self.m // self.n)

    def touches(self, lo: int, hi: int) -> Span:
        """Outputs between these inputs."""
        return bisect_left(self.above, lo), bisect_left(self.below, hi)

    def needs(self, lo: int, hi: int) -> tuple[int, int, Hashable]:
        """`how`: positions below and above, and the weights."""
        a, b = self.below[lo], self.above[hi - 1] + 1
        below, above = (tuple(i - a for i in side[lo:hi]) for side in (self.below, self.above))
        return a, b, (below, above, tuple(self.weight[lo:hi]))


class Shuffle(Axis):
    """Each input becomes `factor` outputs made of its channels: pixel shuffle."""

    def __init__(self, n: int, factor: int) -> None:
        super().__init__(n, n * factor)
        self.factor = factor

    @property
    def pace(self) -> Fraction:
        """One over the factor."""
        return Fraction(1, self.factor)

    def length(self, count: int) -> int:
        """By the factor more."""
        return count * self.factor

    def touches(self, lo: int, hi: int) -> Span:
        """All that become of them."""
        return lo * self.factor, hi * self.factor

    def needs(self, lo: int, hi: int) -> tuple[int, int, Hashable]:
        """`how`: where the answer starts, and its length."""
        a = lo // self.factor
        return a, (hi - 1) // self.factor + 1, (lo - a * self.factor, hi - lo)


class Unshuffle(Axis):
    """`factor` inputs become the channels of one output."""

    def __init__(self, n: int, factor: int) -> None:
        super().__init__(n, n // factor)
        self.factor = factor

    @property
    def pace(self) -> Fraction:
        """The factor."""
        return Fraction(self.factor)

    def length(self, count: int) -> int:
        """One of so many."""
        return count // self.factor

    def touches(self, lo: int, hi: int) -> Span:
        """The outputs that hold them."""
        return lo // self.factor, (hi - 1) // self.factor + 1

    def needs(self, lo: int, hi: int) -> tuple[int, int, Hashable]:
        """All that they hold."""
        return lo * self.factor, hi * self.factor, ()


def as_data(axis: Axis) -> list[Any]:
    """Write an axis as plain data, without its pixels in and out: a letter and the numbers that `from_data` takes."""
    if isinstance(axis, Window):
        return ["w", axis.reach, axis.stride, axis.padding, axis.after]
    if isinstance(axis, Spread):
        return ["s", axis.reach, axis.stride, axis.padding]
    if isinstance(axis, Pad):
        return ["p", axis.before, axis.mode]
    if isinstance(axis, Picked) and axis.pace:
        return ["n"]
    if isinstance(axis, Weighted) and axis.pace:
        return ["l"]
    letters = {Same: "e", Whole: "a", Shuffle: "c", Unshuffle: "u"}
    if type(axis) in letters:
        return [letters[type(axis)]]
    raise ValueError(
        f"{type(axis).__name__} of {axis.n} to {axis.m} pixels is not a whole number of times larger or smaller"
    )


def from_data(data: Sequence[Any], n: int, m: int) -> Axis:
    """Read what `as_data` wrote of an axis with n pixels in and m out.

    Raises:
        ValueError, TypeError, IndexError: it is none.
    """
    kind, numbers = data[0], [int(number) for number in data[1:] if not isinstance(number, str)]
    if kind == "w":
        reach, stride, padding, after = numbers
        return Window(n, m, reach + 1, stride, padding, 1, after)
    if kind == "s":
        reach, stride, padding = numbers
        return Spread(n, m, reach + 1, stride, padding)
    if kind == "p":
        return Pad(n, m, numbers[0], str(data[2]))
    if kind == "n":
        return Picked(n, [o * n // m for o in range(m)])
    if kind == "l":
        below, above = enlarged(n, m // n)
        return Weighted(n, below, above, [0.0] * m)
    plain = {"e": Same(n, m), "a": Whole(n, m), "c": Shuffle(n, m // n or 1), "u": Unshuffle(n, n // m or 1)}
    if kind in plain:
        return plain[kind]
    raise ValueError(f"{kind!r} is no axis")
