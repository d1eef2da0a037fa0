"""How intervals of rows (or columns) travel through one operation: the two questions every local operation can answer.

A picture operation treats rows and columns alike and apart, so a rule needs only one axis at a time. All intervals are
half-open pairs of integers in pixels of their own map: [lo, hi) of the output, [a, b) of the input, n pixels in, m out.

    touches   which outputs may change when inputs [lo, hi) do            forward
    needs     which inputs outputs [lo, hi) are computed from, and how    backward
    core      where an edit lies in the output, without what leaks from it

`how` is a hashable recipe that does not depend on where in the map the interval lies: two intervals with the same recipe can be
computed together as one batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Hashable, Sequence

__all__ = ["Axis", "Pad", "Picked", "Same", "Shuffle", "Span", "Spread", "Unshuffle", "Weighted", "Whole", "Window"]

Span = tuple[int, int]


def clipped(lo: int, hi: int, size: int) -> Span:
    """Cut an interval to [0, size); it may become empty."""
    return max(lo, 0), min(hi, size)


def one_or_more(lo: int, hi: int, size: int) -> Span:
    """Cut an interval to [0, size) and keep at least one pixel of it, the nearest one."""
    lo = min(max(lo, 0), size - 1)
    return lo, max(min(hi, size), lo + 1)


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


class Same(Axis):
    """Pixel by pixel."""

    def touches(self, lo: int, hi: int) -> Span:
        """Themselves."""
        return lo, hi

    def needs(self, lo: int, hi: int) -> tuple[int, int, Hashable]:
        """Themselves."""
        return lo, hi, ()


class Whole(Axis):
    """An input of one pixel that every output depends on."""

    def touches(self, lo: int, hi: int) -> Span:
        """Every output."""
        return 0, self.m

    def needs(self, lo: int, hi: int) -> tuple[int, int, Hashable]:
        """The one pixel."""
        return 0, self.n, ()


class Window(Axis):
    """A window that slides over the input: convolution and pooling."""

    def __init__(self, n: int, m: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> None:
        super().__init__(n, m)
        self.reach = dilation * (kernel - 1)
        self.stride = stride
        self.padding = padding

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

    def touches(self, lo: int, hi: int) -> Span:
        """The outputs that hold them."""
        return lo // self.factor, (hi - 1) // self.factor + 1

    def needs(self, lo: int, hi: int) -> tuple[int, int, Hashable]:
        """All that they hold."""
        return lo * self.factor, hi * self.factor, ()
