"""PatchNet in its compact form: 358 numbers, one correlation, and sums of shifted maps.

Mao, Zhu, Kong, Zhang and Dally, "PatchNet - Short-range Template Matching for Efficient Video Processing", 2021
(arXiv:2103.07371). A template of 64x64 pixels is cut into 8x8 patches of 8x8 pixels. Each is matched on its own within a search
picture of 119x119; their maps are then added in a pyramid, four children to a parent, each level allowing the patches to move
apart by a pixel more (max pooling), and how they moved says how the object's edges did.

The published network stores its sums as 5x5 convolutions of which only one tap a child is not zero. Here only those taps are
kept: the same function at a third of the multiply-adds. The normaliser is taken per object; the published code takes it over
all objects of a call, so that they influence each other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effvision.ops.correlation import correlate, correlate_by_products, patch_energy

__all__ = ["CELLS", "GRID", "PATCH", "SEARCH", "TEMPLATE", "Matcher", "PatchAggregate", "PatchNet", "fourier_matrix"]

PATCH = 8  # pixels a side of a patch
GRID = 8  # patches a side of a template
CELLS = 7  # places a side of the response
TEMPLATE = PATCH * GRID
SEARCH = TEMPLATE - 1 + GRID * CELLS  # 119
_TOGETHER = 8  # objects matched at a time on a CPU
_STEP = 4  # places between two children of one parent, at every level of the pyramid
_EDGES = 4  # ymin, ymax, xmin, xmax; what is known of a patch is how they moved, and last of all how well it was found
_RATE = 1e-2  # of the published normaliser; it comes with the filters, so that no number between goes beyond float16


class Matcher(nn.Module):
    """What all variants share: describe templates, match them, both together.

    Attributes:
        zero_mean: Each template's mean colour is taken off it and off its search picture.
        by_products: For export: slices and a matrix product instead of convolutions, and what else ONNX Runtime is fast at.
    """

    zero_mean: bool
    by_products: bool = False
    corners: Tensor
    parents: Tensor

    def __init__(self) -> None:
        super().__init__()
        # patches sorted so that the upper left children of all parents come first, and among those likewise
        corners = torch.arange(GRID * GRID).view(2, 2, 2, 2, 2, 2).permute(2, 5, 1, 4, 0, 3).flatten()
        parents = torch.arange(GRID * GRID // 4).view(2, 2, 2, 2).permute(1, 3, 0, 2).flatten()
        self.register_buffer("corners", corners, persistent=False)
        self.register_buffer("parents", parents, persistent=False)

    def describe(self, template: Tensor) -> tuple[Tensor, Tensor]:
        """Turn templates (M, 3, 64, 64) into filters (M, 64, 3, 8, 8) and the colour (M, 3) to take off search pictures."""
        raise NotImplementedError

    def match(self, search: Tensor, filters: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Match filters within search pictures (M, 3, 119, 119): response (M, 7, 7) and offsets (M, 4, 7, 7).

        Offsets are those of the edges ymin, ymax, xmin, xmax in response cells; a cell is an eighth of the box.
        """
        if self.by_products or search.device.type != "cpu" or len(search) <= _TOGETHER:
            return self._match(search, filters, mean)
        answers = []
        for begin in range(0, len(search), _TOGETHER):  # few enough at a time for the caches
            rows = slice(begin, begin + _TOGETHER)
            answers.append(self._match(search[rows], filters[rows], mean[rows]))
        return torch.cat([response for response, _ in answers]), torch.cat([offsets for _, offsets in answers])

    def _match(self, search: Tensor, filters: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def forward(self, template: Tensor, search: Tensor) -> tuple[Tensor, Tensor]:
        """Match templates (M, 3, 64, 64) within search pictures (M, 3, 119, 119); see `match`.

        Both are RGB minus the mean colour (`effvision.host.crops`), not scaled.
        """
        return self.match(search, *self.describe(template))

    def correlate(self, search: Tensor, filters: Tensor, *, stride: int) -> Tensor:
        """Slide each object's filters over its search picture."""
        form = correlate_by_products if self.by_products else correlate
        return form(search, filters, stride=stride)

    def _by_corner(self, filters: Tensor) -> Tensor:
        """Sort filters (M, 64, ...) so that children in the same corner of their parents follow each other."""
        return filters.index_select(1, self.corners)

    def _patches(self, template: Tensor) -> tuple[Tensor, Tensor]:
        """Cut templates into patches (M, 64, 3, 8, 8), without their mean colour (M, 3) where that is asked for."""
        if self.zero_mean:
            mean = template.mean((2, 3))
            template = template - mean[:, :, None, None]
        else:
            mean = template.new_zeros(template.shape[0], 3)
        rows = template.reshape(template.shape[0], 3, GRID, PATCH, GRID, PATCH)
        return rows.permute(0, 2, 4, 1, 3, 5).flatten(1, 2), mean


class PatchNet(Matcher):
    """The learned matcher. A new one has the published structural start, not random weights."""

    def __init__(self, *, zero_mean: bool = False) -> None:
        super().__init__()
        self.zero_mean = zero_mean
        self.frequencies = nn.Parameter(torch.ones(PATCH, PATCH // 2 + 1, 2))
        self.taps2 = nn.Parameter(torch.full((16, 4), 0.25))
        self.taps3 = nn.Parameter(torch.full((4, 4), 0.25))
        self.taps4 = nn.Parameter(torch.full((1, 4), 0.25))
        self.pool2 = SoftPool()
        self.pool3 = SoftPool()
        self.edges3 = nn.Parameter(_edge_start(4))
        self.edges4 = nn.Parameter(_edge_start(1))

    def describe(self, template: Tensor) -> tuple[Tensor, Tensor]:
        """Weight the frequencies of each patch; see `Matcher.describe`."""
        patches, mean = self._patches(template)
        weighted = patches.flatten(3) @ fourier_matrix(self.frequencies)
        return weighted.reshape(patches.shape), mean

    def _match(self, search: Tensor, filters: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Correlate, normalise, add up the pyramid; see `Matcher.match`."""
        if self.zero_mean:
            search = search - mean[:, :, None, None]
        taps2 = self.taps2.index_select(0, self.parents).T.flatten() * _RATE  # each child has one parent and one tap
        scaled = self._by_corner(filters) * taps2[:, None, None, None]
        level2 = self._first_level(search, scaled, _normaliser(search, stride=2))
        pooled2, shares2 = self.pool2.shares(_fold(level2, for_onnx=self.by_products), for_onnx=self.by_products)
        # what the first pooling adds is linear in its shares, so it is taken together with the sum over children
        by_place = _dense(self.edges3) @ self.pool2.moves
        level3 = _mixed(torch.cat((shares2, pooled2), dim=2), by_place, self.taps3)
        level3 = _fold(level3, for_onnx=self.by_products)
        pooled3, shares3 = self.pool3.shares(
            level3[:, :, _EDGES], for_onnx=self.by_products
        )  # of (M, 4, 5, 4 places, 11, 11)
        moved3 = (shares3[:, :, None] * (level3[:, :, :_EDGES] + self.pool3.moves[:, :, None, None])).sum(3)
        level4 = _mixed(torch.cat((moved3, pooled3), dim=2), _dense(self.edges4), self.taps4)
        return level4[:, 0, _EDGES], level4[:, 0, :_EDGES]

    def _first_level(self, search: Tensor, filters: Tensor, weight: Tensor) -> Tensor:
        """Correlate and add up the first level: (M, 16, 52, 52), children sorted by corner.

        On a CPU object by object, so that the 64 maps of one do not leave the caches before they are added.
        """
        if self.by_products or search.device.type != "cpu" or len(search) < 2:
            return _first_sum(self.correlate(search, filters, stride=2), weight)
        each = [slice(at, at + 1) for at in range(len(search))]
        sums = [_first_sum(self.correlate(search[at], filters[at], stride=2), weight[at]) for at in each]
        return torch.cat(sums)


class PatchAggregate(Matcher):
    """The hand-set matcher: zero-mean templates, no learned numbers, translation only (its offsets are zero).

    It correlates at every pixel and keeps the better of two, so it takes four times the work of `PatchNet`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.zero_mean = True
        self.taps2 = nn.Parameter(torch.full((16, 4), 0.25))
        self.taps3 = nn.Parameter(torch.full((4, 4), 0.25))
        self.taps4 = nn.Parameter(torch.full((1, 4), 0.25))

    def describe(self, template: Tensor) -> tuple[Tensor, Tensor]:
        """Divide zero-mean patches by their mean length; see `Matcher.describe`."""
        patches, mean = self._patches(template)
        lengths = patches.flatten(2).square().sum(2).sqrt().mean(1) + 1e-6
        return patches / lengths[:, None, None, None, None], mean

    def _match(self, search: Tensor, filters: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Correlate at every pixel, normalise, add up the pyramid; see `Matcher.match`."""
        search = search - mean[:, :, None, None]
        maps = self.correlate(search, self._by_corner(filters), stride=1)
        level = maps * _normaliser(search, stride=1)
        for taps in (self.taps2.index_select(0, self.parents), self.taps3, self.taps4):
            children = torch.stack(_children(nn.functional.max_pool2d(level, 2)), dim=2)
            level = (children * taps[:, :, None, None]).sum(2)
        return level[:, 0], level.new_zeros(level.shape[0], 4, CELLS, CELLS)


class SoftPool(nn.Module):
    """Max pooling 2x2 of scores that also says, softly, which of the four it took.

    Attributes:
        moves: (4, 4): what each of the four places adds to the edges ymin, ymax, xmin, xmax.
        sharpness: (1,): 0 takes all four alike, infinity the best alone.
    """

    def __init__(self) -> None:
        super().__init__()
        row, column = torch.tensor([-0.5, -0.5, 0.5, 0.5]), torch.tensor([-0.5, 0.5, -0.5, 0.5])
        self.moves = nn.Parameter(torch.stack([row, row, column, column]))
        self.sharpness = nn.Parameter(torch.ones(1))

    def shares(self, four: Tensor, *, for_onnx: bool) -> tuple[Tensor, Tensor]:
        """Pool scores of four places (M, P, 4, R, R) to (M, P, 1, R, R); also the places' shares, which add up to 1.

        For ONNX the softmax is written out: ONNX Runtime's is eight times as slow along an axis that is not the last.
        """
        best, sharpened = four.amax(2, keepdim=True), four.detach() * self.sharpness
        if not for_onnx:
            return best, torch.softmax(sharpened, dim=2)
        weights = torch.exp(sharpened - sharpened.amax(2, keepdim=True))
        return best, weights / weights.sum(2, keepdim=True)


def fourier_matrix(frequencies: Tensor) -> Tensor:
    """Turn weights of frequencies (8, 5, 2), for real and imaginary parts, into one map (64, 64) of a patch's pixels.

    A row of pixels times the matrix is the patch after `rfft2`, weighting and `irfft2`.
    """
    unit = torch.eye(PATCH * PATCH, dtype=frequencies.dtype, device=frequencies.device).view(-1, PATCH, PATCH)
    spectrum = torch.view_as_real(torch.fft.rfft2(unit, norm="ortho")) * frequencies
    mapped: Tensor = torch.fft.irfft2(torch.view_as_complex(spectrum), s=(PATCH, PATCH), norm="ortho")
    return mapped.flatten(1)


def _normaliser(search: Tensor, *, stride: int) -> Tensor:
    """One over the length of what lies under a patch, (M, 1, R, R); no gradient flows through it, as published."""
    with torch.no_grad():
        energy = patch_energy(search, patch=PATCH, stride=stride)
        places = energy.shape[-1] * energy.shape[-2]
        # the published standard deviation runs over 64 copies of these numbers, and divides by their count less one
        spread = (energy - energy.mean((1, 2, 3), keepdim=True)).square().mean((1, 2, 3), keepdim=True)
        spread = (spread * (GRID * GRID * places / (GRID * GRID * places - 1))).sqrt()
        # published: plus 1e-9 instead of at least 1e-9; what optimises exported graphs takes sums with so little for none
        length = (energy + (spread / 10).clamp(min=1e-9)).sqrt()
        return length.new_ones(1) / length  # TensorRT 8.2 has no Reciprocal


def _children(maps: Tensor) -> list[Tensor]:
    """Lay the children of each parent over each other: maps (M, 4 P, ..., R, R) to four (M, P, ..., R - 4, R - 4)."""
    count = maps.shape[1] // 4
    return [_corner(maps[:, place * count : (place + 1) * count], place) for place in range(4)]


def _corner(maps: Tensor, place: int) -> Tensor:
    """Where the child in corner `place` (row by row) is when its parent is at each place of its own."""
    size, row, column = maps.shape[-1] - _STEP, place // 2 * _STEP, place % 2 * _STEP
    return maps[..., row : row + size, column : column + size]


def _fold(maps: Tensor, *, for_onnx: bool) -> Tensor:
    """Bring the four places of each pooling window together: (..., 2 R, 2 R) -> (..., 4, R, R).

    For ONNX first along the rows, then whole rows: ONNX Runtime moves one axis four times as fast as two at once.
    """
    size = maps.shape[-1] // 2
    if for_onnx:
        apart = maps.reshape(*maps.shape[:-1], size, 2).transpose(-1, -2)  # (..., 2 R, 2, R)
        return apart.reshape(*maps.shape[:-2], size, 4, size).transpose(-2, -3).contiguous()
    windows = maps.reshape(*maps.shape[:-2], size, 2, size, 2)
    return windows.movedim((-3, -1), (-4, -3)).flatten(-4, -3)


def _first_sum(maps: Tensor, weight: Tensor) -> Tensor:
    """Weight maps (M, 64, 56, 56) by (M, 1, 56, 56) and add the four children of each parent: (M, 16, 52, 52).

    The largest arrays by far, so each is read once and none is written.
    """
    total: Tensor | None = None
    for place, child in enumerate(_children(maps)):
        own = _corner(weight, place)
        total = child * own if total is None else torch.addcmul(total, child, own)
    assert total is not None
    return total


def _mixed(parts: Tensor, edges: Tensor, taps: Tensor) -> Tensor:
    """Sum what is known of each parent's four children: (M, 4 P, n + 1, R, R) -> (M, P, 4 edges + 1, R - 4, R - 4).

    Args:
        parts: n numbers that say how the edges of a child moved, and how well it was found.
        edges: (P, 4 edges, 4 children, n).
        taps: (P, 4 children).
    """
    of_edges = nn.functional.pad(edges, (0, 1)).flatten(2)  # how well it was found does not move an edge
    of_score = nn.functional.pad(taps[:, None, :, None], (edges.shape[-1], 0)).flatten(2)
    near = torch.cat(_children(parts), dim=2)  # (M, P, 4 (n + 1), R - 4, R - 4)
    mixed = torch.matmul(torch.cat((of_edges, of_score), dim=1), near.flatten(3))
    return mixed.reshape(*mixed.shape[:3], *near.shape[-2:])


def _dense(edges: Tensor) -> Tensor:
    """Lay edge weights (P, 2 axes, 2 edges, 4 children, 2 edges of a child) out as (P, 4 edges, 4 children, 4 edges)."""
    none = torch.zeros_like(edges[:, 0])
    vertical = torch.cat((edges[:, 0], none), dim=3)
    horizontal = torch.cat((none, edges[:, 1]), dim=3)
    return torch.cat((vertical, horizontal), dim=1)


def _edge_start(parents: int) -> Tensor:
    """How a parent's edges follow from its children's, by least squares: (P, 2 axes, 2 edges, 4 children, 2 edges)."""
    ends = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.5, 0.5], [0.0, 1.0]], dtype=torch.float64)
    solved = (torch.linalg.pinv(ends).T.view(2, 2, 2) / 4).permute(
        0, 2, 1
    )  # place along the axis, edge, edge of a child
    rows, columns = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    start = torch.stack([solved[rows].permute(1, 0, 2), solved[columns].permute(1, 0, 2)])
    return start.float().expand(parents, 2, 2, 4, 2).contiguous()
