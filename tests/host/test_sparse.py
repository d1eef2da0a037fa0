"""Kernel maps against loops over a dictionary of voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from effvision.errors import DTypeError, InputError, RangeError, ShapeError
from effvision.host import sparse
from effvision.host.sparse import FARTHEST, MOST_BATCHES, Pairs
from sparse_grids import KERNELS, STRIDED, cloud, clouds, taps, three

COORDINATE = st.one_of(st.integers(-FARTHEST, FARTHEST - 1), st.sampled_from([-FARTHEST, -1, 0, FARTHEST - 1]))
VOXEL = st.tuples(COORDINATE, COORDINATE, COORDINATE, st.integers(0, MOST_BATCHES - 1))


def listed(pairs: Pairs) -> list[list[tuple[int, int]]]:
    """Of each offset the pairs (output row, input row), those of the identity written out."""
    found = []
    for k, (begin, end) in enumerate(zip(pairs.bounds[:-1], pairs.bounds[1:], strict=True)):
        rows = list(zip(pairs.target[begin:end].tolist(), pairs.source[begin:end].tolist(), strict=True))
        found.append([(row, row) for row in range(pairs.inputs)] if k == pairs.identity else rows)
    return found


def as_rows(keys: NDArray[np.int64]) -> list[tuple[int, ...]]:
    return [tuple(voxel) for voxel in sparse.unpack(keys).tolist()]


def slow_map(
    inputs: list[tuple[int, ...]], outputs: list[tuple[int, ...]], kernel: Any, stride: Any, dilation: Any
) -> Any:
    """Which input stands at output * stride + offset, for each offset."""
    number = {voxel: row for row, voxel in enumerate(inputs)}
    steps = three(stride)
    found = []
    for offset in taps(kernel, dilation):
        seen = [
            number.get((*(at * step + by for at, step, by in zip(voxel[:3], steps, offset, strict=True)), voxel[3]))
            for voxel in outputs
        ]
        found.append([(row, source) for row, source in enumerate(seen) if source is not None])
    return found


# -- keys ------------------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.lists(VOXEL, min_size=1, max_size=8))
def test_keys_are_ordered_like_batch_x_y_z_and_unpack_to_what_was_packed(voxels: list[tuple[int, ...]]) -> None:
    keys = sparse.pack(np.array(voxels))
    assert as_rows(keys) == voxels
    by_key = [voxels[row] for row in np.argsort(keys, kind="stable")]
    assert by_key == sorted(voxels, key=lambda voxel: (voxel[3], *voxel[:3]))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64])
def test_any_whole_number_dtype_packs_alike(dtype: type) -> None:
    voxels = np.array([[3, 0, 7, 1], [2, 9, 4, 0]])
    assert (sparse.pack(voxels.astype(dtype)) == sparse.pack(voxels)).all()


@pytest.mark.parametrize(
    "voxel",
    [
        (FARTHEST, 0, 0, 0),
        (0, -FARTHEST - 1, 0, 0),
        (0, 0, 1 << 40, 0),
        (0, 0, 0, MOST_BATCHES),
        (0, 0, 0, -1),
    ],
)
def test_what_cannot_be_packed_is_a_range_error(voxel: tuple[int, ...]) -> None:
    with pytest.raises(RangeError, match="must lie in") as caught:
        sparse.pack(np.array([(0, 0, 0, 0), voxel]))
    assert str(caught.value).splitlines()[-1].startswith("hint: ")


def test_voxels_at_the_limits_are_no_neighbours_of_those_at_the_other_end() -> None:
    top, bottom = FARTHEST - 1, -FARTHEST
    corners = [
        (x, y, z, batch) for x in (top, bottom) for y in (top, bottom) for z in (top, bottom) for batch in (0, 1)
    ]
    corners += [(0, 0, top, 0), (0, 1, bottom, 0), (0, top, 0, 0), (1, bottom, 0, 0)]  # neighbours if a field ran over
    keys, _ = sparse.sort_keys(sparse.pack(np.array(corners)))
    for kernel, dilation in ((3, 1), (5, 100), (2, 255)):
        assert sparse.neighbours(keys, kernel, dilation).count == len(corners)


@pytest.mark.parametrize("shape", [(4,), (3, 3), (2, 2, 4)])
def test_coordinates_are_rows_of_four(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"must be \(V, 4\)"):
        sparse.pack(np.zeros(shape, np.int32))


def test_no_voxel_is_refused() -> None:
    with pytest.raises(ShapeError, match="holds no voxel"):
        sparse.pack(np.zeros((0, 4), np.int32))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.bool_, np.complex64])
def test_coordinates_are_whole_numbers(dtype: type) -> None:
    with pytest.raises(DTypeError, match="whole numbers"):
        sparse.pack(np.zeros((2, 4), dtype))


@given(clouds())
@settings(max_examples=20)
def test_sorting_remembers_where_each_voxel_went(coords: NDArray[np.int64]) -> None:
    keys = sparse.pack(coords)
    ordered, rows = sparse.sort_keys(keys)
    assert (np.diff(ordered) > 0).all()
    assert (ordered[rows] == keys).all()


def test_sorted_keys_stay_as_they_are() -> None:
    keys = np.array([3, 5, 9])
    ordered, rows = sparse.sort_keys(keys)
    assert (ordered == keys).all() and (rows == [0, 1, 2]).all()


def test_a_voxel_that_stands_twice_is_named_with_its_rows() -> None:
    coords = np.array([[0, 0, 0, 0], [5, -6, 7, 2], [1, 1, 1, 0], [5, -6, 7, 2], [1, 1, 1, 0]])
    with pytest.raises(InputError, match=r"2 voxels twice, first \[1, 1, 1, 0\].*rows 2 and 4"):
        sparse.sort_keys(sparse.pack(coords))


def test_a_voxel_is_found_in_its_row_or_not_at_all() -> None:
    keys = np.array([2, 4, 9])
    assert sparse.rows_of(keys, np.array([9, 1, 4, 5, 10, 2])).tolist() == [2, -1, 1, -1, -1, 0]


# -- kernels ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "dilation"), KERNELS)
def test_offsets_stand_in_the_order_of_published_weights(kernel: Any, dilation: Any) -> None:
    assert [tuple(offset) for offset in sparse.kernel_offsets(kernel, dilation).tolist()] == taps(kernel, dilation)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, (3, 3), (3, 3, 0), (3, 3, 3, 3), "3", None])
def test_a_size_is_one_or_three_whole_numbers(value: Any) -> None:
    with pytest.raises(InputError, match="`kernel` must be a whole number"):
        sparse.kernel_offsets(value)


def test_a_kernel_that_would_run_over_a_key_is_refused() -> None:
    with pytest.raises(InputError, match="reaches farther"):
        sparse.kernel_offsets(3, 200)


# -- maps ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "dilation"), KERNELS)
@given(coords=clouds())
@settings(max_examples=8)
def test_neighbours_are_those_a_loop_finds(coords: NDArray[np.int64], kernel: Any, dilation: Any) -> None:
    keys, _ = sparse.sort_keys(sparse.pack(coords))
    pairs = sparse.neighbours(keys, kernel, dilation)
    voxels = as_rows(keys)
    expected = slow_map(voxels, voxels, kernel, 1, dilation)
    assert listed(pairs) == expected
    assert pairs.count == sum(map(len, expected))
    assert (pairs.inputs, pairs.outputs) == (len(keys), len(keys))


@pytest.mark.parametrize(("kernel", "stride", "dilation"), STRIDED)
@given(coords=clouds())
@settings(max_examples=8)
def test_a_stride_makes_the_voxels_that_see_one_and_the_pairs_a_loop_finds(
    coords: NDArray[np.int64], kernel: Any, stride: Any, dilation: Any
) -> None:
    keys, _ = sparse.sort_keys(sparse.pack(coords))
    voxels, steps = as_rows(keys), three(stride)
    seen = {
        (*((at - by) // step for at, by, step in zip(voxel[:3], offset, steps, strict=True)), voxel[3])
        for voxel in voxels
        for offset in taps(kernel, dilation)
        if all((at - by) % step == 0 for at, by, step in zip(voxel[:3], offset, steps, strict=True))
    }
    if not seen:
        with pytest.raises(InputError, match="no voxel falls under"):
            sparse.coarser(keys, kernel, stride, dilation)
        return
    made, pairs = sparse.coarser(keys, kernel, stride, dilation)
    outputs = as_rows(made)
    assert outputs == sorted(seen, key=lambda voxel: (voxel[3], *voxel[:3]))
    assert listed(pairs) == slow_map(voxels, outputs, kernel, stride, dilation)
    assert (pairs.inputs, pairs.outputs, pairs.identity) == (len(keys), len(made), -1)


def test_halving_makes_the_unique_floors() -> None:
    coords = cloud(0, side=6, batches=2, shift=-3)
    keys, _ = sparse.sort_keys(sparse.pack(coords))
    made, pairs = sparse.coarser(keys)
    floors = {(x // 2, y // 2, z // 2, batch) for x, y, z, batch in coords.tolist()}
    assert set(as_rows(made)) == floors
    assert pairs.count == len(coords)


def test_voxels_may_not_spread_beyond_what_can_be_packed() -> None:
    keys = sparse.pack(np.array([[FARTHEST - 1, 0, 0, 0]]))
    with pytest.raises(RangeError, match="must lie in"):
        sparse.coarser(keys, kernel=3, stride=1)


def test_a_turned_map_exchanges_inputs_and_outputs() -> None:
    keys, _ = sparse.sort_keys(sparse.pack(cloud(1)))
    _, pairs = sparse.coarser(keys, 3, 2)
    turned = pairs.turned
    assert (turned.inputs, turned.outputs, turned.count) == (pairs.outputs, pairs.inputs, pairs.count)
    assert listed(turned) == [sorted((source, target) for target, source in rows) for rows in listed(pairs)]
