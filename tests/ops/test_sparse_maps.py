"""Maps made in torch are those of the host, pair by pair, and each is made once."""

from __future__ import annotations

import gc
import re
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from effvision.errors import DTypeError, InputError, RangeError, ShapeError
from effvision.host import sparse as host
from effvision.host.sparse_levels import point_table
from effvision.ops import sparse_maps
from effvision.ops.sparse_conv import KernelMap
from effvision.ops.sparse_maps import Voxels
from sparse_grids import KERNELS, STRIDED, cloud, clouds


def assert_same_map(found: KernelMap, expected: KernelMap) -> None:
    assert (found.bounds, found.inputs, found.outputs) == (expected.bounds, expected.inputs, expected.outputs)
    assert found.identity == expected.identity
    for side in ("source", "target"):
        assert getattr(found, side).dtype == torch.int64
        assert torch.equal(getattr(found, side), getattr(expected, side))


def sorted_keys(coords: NDArray[np.int64]) -> NDArray[np.int64]:
    return host.sort_keys(host.pack(coords))[0]


def voxels_of(coords: NDArray[np.int64]) -> Voxels:
    return Voxels.of(torch.from_numpy(coords))


@given(clouds(), st.sampled_from([torch.int16, torch.int32, torch.int64]))
@settings(max_examples=25)
def test_keys_in_torch_are_those_of_the_host(coords: NDArray[np.int64], dtype: torch.dtype) -> None:
    keys = host.pack(coords)
    ordered, rows = host.sort_keys(keys)
    found = sparse_maps.pack(torch.from_numpy(coords).to(dtype))
    assert (found.numpy() == keys).all()
    assert (sparse_maps.unpack(found).numpy() == host.unpack(keys)).all()
    in_torch, rows_in_torch = sparse_maps.sort_keys(found)
    assert (in_torch.numpy() == ordered).all() and (rows_in_torch.numpy() == rows).all()
    wanted = np.concatenate([keys, keys + 1, keys - 1])
    assert (sparse_maps.rows_of(in_torch, torch.from_numpy(wanted)).numpy() == host.rows_of(ordered, wanted)).all()


def test_the_ends_of_the_range_pack_alike() -> None:
    low, high = -host.FARTHEST, host.FARTHEST - 1
    ends = np.array([[low, high, low, 0], [high, low, high, host.MOST_BATCHES - 1], [-1, 0, -1, 3]])
    found = sparse_maps.pack(torch.from_numpy(ends))
    assert (found.numpy() == host.pack(ends)).all()
    assert (sparse_maps.unpack(found).numpy() == ends).all()


@pytest.mark.parametrize(("kernel", "dilation"), KERNELS)
@given(coords=clouds())
@settings(max_examples=6)
def test_neighbours_in_torch_are_those_of_the_host(coords: NDArray[np.int64], kernel: Any, dilation: Any) -> None:
    keys = sorted_keys(coords)
    expected = KernelMap.of(host.neighbours(keys, kernel, dilation))
    assert_same_map(sparse_maps.neighbours(torch.from_numpy(keys), kernel, dilation), expected)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), STRIDED)
@given(coords=clouds())
@settings(max_examples=6)
def test_strided_maps_in_torch_are_those_of_the_host(
    coords: NDArray[np.int64], kernel: Any, stride: Any, dilation: Any
) -> None:
    keys = sorted_keys(coords)
    try:
        made, pairs = host.coarser(keys, kernel, stride, dilation)
    except InputError as error:
        with pytest.raises(InputError, match=re.escape(str(error))):
            sparse_maps.coarser(torch.from_numpy(keys), kernel, stride, dilation)
        return
    found, kernel_map = sparse_maps.coarser(torch.from_numpy(keys), kernel, stride, dilation)
    assert (found.numpy() == made).all()
    assert_same_map(kernel_map, KernelMap.of(pairs))


def test_maps_are_the_same_when_offsets_are_searched_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = sorted_keys(cloud(3, side=5, batches=2))
    monkeypatch.setattr(sparse_maps, "_AT_ONCE", 3 * len(keys))
    found = sparse_maps.neighbours(torch.from_numpy(keys), 3)
    assert_same_map(found, KernelMap.of(host.neighbours(keys, 3)))
    pairs = host.coarser(keys, 3, 2)[1]
    assert_same_map(sparse_maps.coarser(torch.from_numpy(keys), 3, 2)[1], KernelMap.of(pairs))


@given(st.integers(0, 1000), st.integers(1, 50), st.sampled_from([np.float32, np.float64, np.int64]))
@settings(max_examples=25)
def test_points_in_torch_lie_where_the_host_puts_them(seed: int, points: int, dtype: type) -> None:
    draw = np.random.default_rng(seed)
    places, batch = draw.uniform(-4, 4, (points, 3)).astype(dtype), draw.integers(0, 3, points)
    places[0] = np.nextafter(np.float32(2), np.float32(0))
    keys = np.unique(host.pack(np.column_stack([np.floor(places).astype(np.int64), batch])))
    expected = point_table(keys, places, batch)
    found = sparse_maps.point_map(torch.from_numpy(keys), torch.from_numpy(places), torch.from_numpy(batch))
    for name in ("voxel", "shares", "corners", "weights"):
        mine, theirs = getattr(found, name).numpy(), getattr(expected, name)
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


def test_errors_in_torch_are_those_of_the_host() -> None:
    cases: list[NDArray[Any]] = [
        np.zeros((2, 3), np.int64),
        np.zeros((0, 4), np.int64),
        np.array([[host.FARTHEST, 0, 0, 0]]),
        np.array([[0, 0, 0, -1]]),
        np.array([[0, 0, 0, host.MOST_BATCHES]]),
        np.array([[1, 2, 3, 0], [0, 0, 0, 0], [1, 2, 3, 0]]),
    ]
    for coords in cases:
        with pytest.raises(InputError) as expected:
            host.sort_keys(host.pack(coords))
        with pytest.raises(type(expected.value)) as found:
            Voxels.of(torch.from_numpy(coords))
        assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bool, torch.complex64])
def test_coordinates_are_whole_numbers(dtype: torch.dtype) -> None:
    with pytest.raises(DTypeError, match="whole numbers"):
        sparse_maps.pack(torch.zeros(2, 4, dtype=dtype))


def test_coordinates_without_values_are_refused() -> None:
    with pytest.raises(InputError, match="meta device"):
        Voxels.of(torch.zeros(2, 4, dtype=torch.int32, device="meta"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, float(host.FARTHEST)])
def test_a_point_nowhere_is_a_range_error_in_torch_too(value: float) -> None:
    keys = sparse_maps.pack(torch.zeros(1, 4, dtype=torch.int64))
    places = torch.tensor([[0.5, 0, 0], [0, value, 0]])
    with pytest.raises(RangeError, match="must lie in"):
        sparse_maps.point_map(keys, places, torch.zeros(2, dtype=torch.int64))


def test_a_point_in_no_voxel_is_refused_in_torch_too() -> None:
    keys = sparse_maps.pack(torch.zeros(1, 4, dtype=torch.int64))
    with pytest.raises(InputError, match=r"1 of 1 points lie in no voxel, first point 0 at \[3.5, 0.0, 0.0\]"):
        sparse_maps.point_map(keys, torch.tensor([[3.5, 0, 0]]), torch.zeros(1, dtype=torch.int64))


def test_voxels_may_not_spread_beyond_what_can_be_packed_in_torch_either() -> None:
    keys = sparse_maps.pack(torch.tensor([[host.FARTHEST - 1, 0, 0, 0]]))
    with pytest.raises(RangeError, match="must lie in"):
        sparse_maps.coarser(keys, kernel=3, stride=1)


# -- levels ----------------------------------------------------------------------------------------------------------------


def test_every_map_of_a_level_is_made_once() -> None:
    voxels = voxels_of(cloud(4, side=5))
    assert voxels.near(3) is voxels.near((3, 3, 3), dilation=(1, 1, 1))
    assert voxels.near(3) is not voxels.near(3, dilation=2)
    assert voxels.down(2, 2)[0] is voxels.down((2, 2, 2), 2)[0]
    assert voxels.down(2, 2)[0] is not voxels.down(3, 2)[0]
    assert voxels.between(voxels.down(2, 2)[0]) is voxels.down(2, 2)[1]
    other = voxels.down(3, 2)[0]
    assert voxels.between(other, kernel=2) is voxels.between(other, kernel=2)
    fewer = Voxels(other.keys[:3], stride=2)
    assert voxels.between(fewer, kernel=2).outputs == 3
    assert voxels.between(other, kernel=2).outputs == len(other)


def test_a_level_knows_its_stride_and_clouds() -> None:
    voxels = voxels_of(cloud(4, side=5, batches=3))
    once = voxels.down(2, 2)[0]
    twice = once.down((2, 1, 1), (2, 1, 3))[0]
    assert (voxels.stride, once.stride, twice.stride) == ((1, 1, 1), (2, 2, 2), (4, 2, 6))
    assert {level.batch_size for level in (voxels, once, twice)} == {3}


@pytest.mark.parametrize("kernel", [2, 3])
def test_a_map_to_given_voxels_keeps_the_pairs_of_those_alone(kernel: int) -> None:
    fine = voxels_of(cloud(5, side=6, batches=2))
    full, kernel_map = fine.down(kernel, 2)
    kept = full.keys[::2]
    extra = sparse_maps.pack(torch.tensor([[90, 90, 90, 0]]))
    coarse = Voxels(torch.sort(torch.cat([kept, extra]))[0], stride=2)
    found = fine.between(coarse, kernel)
    assert (found.inputs, found.outputs) == (len(fine), len(coarse))
    for offset in range(kernel**3):
        source, target = kernel_map.pairs(offset)
        wanted = torch.isin(full.keys[target], kept)
        assert torch.equal(found.pairs(offset)[0], source[wanted])
        assert torch.equal(coarse.keys[found.pairs(offset)[1]], full.keys[target[wanted]])


def test_levels_that_do_not_fit_are_refused() -> None:
    fine = voxels_of(cloud(6))
    coarse, _ = fine.down(2, 2)
    with pytest.raises(InputError, match="give the finer level last"):
        coarse.between(fine)
    with pytest.raises(InputError, match="no whole number"):
        Voxels(coarse.keys, stride=2).between(Voxels(coarse.keys, stride=3))
    elsewhere = Voxels.of(torch.tensor([[500, 0, 0, 0]]), stride=2)
    with pytest.raises(InputError, match="different clouds"):
        fine.between(elsewhere)


def test_a_batch_size_must_hold_every_cloud() -> None:
    coords = torch.tensor([[0, 0, 0, 2]])
    assert Voxels.of(coords, batch_size=5).batch_size == 5
    with pytest.raises(RangeError, match="at least 3"):
        Voxels.of(coords, batch_size=2)
    for size in (3.0, True):
        with pytest.raises(DTypeError, match="`batch_size` must be a whole number"):
            Voxels.of(coords, batch_size=size)


def test_places_and_batches_are_checked() -> None:
    voxels = Voxels.of(torch.zeros(1, 4, dtype=torch.int32))
    with pytest.raises(ShapeError, match=r"\(P, 3\)"):
        voxels.points(torch.zeros(2, 2), torch.zeros(2).long())
    with pytest.raises(DTypeError, match="`batch` must be whole"):
        voxels.points(torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(InputError, match="meta"):
        voxels.points(torch.zeros(2, 3, device="meta"), torch.zeros(2).long())


def test_maps_are_freed_with_their_level_without_a_search_for_garbage() -> None:
    gc.disable()
    try:
        voxels = voxels_of(cloud(7))
        kernel_map = voxels.down(2, 2)[1]
        assert kernel_map.turned.turned is kernel_map
        alive = weakref.ref(kernel_map)
        turned = kernel_map.turned
        del voxels, kernel_map
        assert alive() is None
        assert turned.turned.inputs == turned.outputs
    finally:
        gc.enable()
