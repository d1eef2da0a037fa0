"""Neighbourhoods of points, against loops over all pairs in plain Python, and against the golden vectors."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from effvision.errors import InputError, RangeError, ShapeError
from effvision.ops import points as points_module
from effvision.ops.points import ball_query, farthest_points, gather_points, interpolate_three, nearest_three

SIZES = [(1, 1), (1, 2), (2, 17), (3, 40)]  # clouds, points


def cloud(clouds: int, points: int, seed: int = 0, *, lattice: bool = False) -> Tensor:
    """Points in a cube; on a lattice distances are exact and many are equal."""
    generator = torch.Generator().manual_seed(seed)
    if lattice:
        return torch.randint(4, (clouds, 3, points), generator=generator).double()
    return torch.rand(clouds, 3, points, generator=generator, dtype=torch.float64)


def squared(a: list[float], b: list[float]) -> float:
    return (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2


def slow_farthest(coords: Tensor, count: int) -> list[list[int]]:
    found = []
    for one in coords.transpose(1, 2).tolist():
        chosen = [0]
        while len(chosen) < count:
            distances = [min(squared(point, one[index]) for index in chosen) for point in one]
            chosen.append(distances.index(max(distances)))
        found.append(chosen)
    return found


def slow_ball(centres: Tensor, coords: Tensor, radius: float, neighbours: int) -> list[list[list[int]]]:
    found = []
    for some, all_ in zip(centres.transpose(1, 2).tolist(), coords.transpose(1, 2).tolist(), strict=True):
        rows = []
        for centre in some:
            hits = [index for index, point in enumerate(all_) if squared(point, centre) < radius**2][:neighbours]
            rows.append(hits + [hits[0] if hits else 0] * (neighbours - len(hits)))
        found.append(rows)
    return found


def slow_three(points: Tensor, centres: Tensor) -> tuple[list[list[list[int]]], list[list[list[float]]]]:
    indices, weights = [], []
    for some, all_ in zip(points.transpose(1, 2).tolist(), centres.transpose(1, 2).tolist(), strict=True):
        rows, shares = [], []
        for point in some:
            ranked = sorted((squared(point, centre), index) for index, centre in enumerate(all_))[:3]
            ranked += [(1e10, 0)] * (3 - len(ranked))
            raw = [1 / min(max(distance, 1e-10), 1e10) for distance, _ in ranked]
            rows.append([index for _, index in ranked])
            shares.append([value / sum(raw) for value in raw])
        indices.append(rows)
        weights.append(shares)
    return indices, weights


@pytest.mark.parametrize("lattice", [False, True])
@pytest.mark.parametrize(("clouds", "points"), SIZES)
def test_sampling_equals_the_slow_search(clouds: int, points: int, lattice: bool) -> None:
    coords = cloud(clouds, points, lattice=lattice)
    for count in {1, points, points // 2 + 1}:
        assert farthest_points(coords, count).tolist() == slow_farthest(coords, count)


def test_sampling_more_points_than_there_are_takes_all_and_then_the_first_again() -> None:
    found = farthest_points(cloud(1, 4), 7)[0].tolist()
    assert sorted(found[:4]) == [0, 1, 2, 3] and found[4:] == [0, 0, 0]
    assert farthest_points(torch.ones(1, 3, 5), 3).tolist() == [[0, 0, 0]]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 30), st.integers(1, 12), st.integers(0, 999))
def test_sampling_covers_the_cloud_at_least_half_as_well_as_any_choice(points: int, count: int, seed: int) -> None:
    """Gonzalez 1985: no `count` balls of less than half the covering radius hold all points."""
    coords = cloud(1, points, seed)
    chosen = coords[0][:, farthest_points(coords, min(count, points))[0]]
    apart = torch.cdist(chosen.T, chosen.T) + torch.eye(chosen.shape[1]) * 9
    reach = torch.cdist(coords[0].T, chosen.T).amin(1).max()
    assert chosen.shape[1] == 1 or apart.min() >= reach - 1e-12


@pytest.mark.parametrize("lattice", [False, True])  # on a lattice many points lie exactly on the border
@pytest.mark.parametrize(("clouds", "points"), SIZES)
@pytest.mark.parametrize(("radius", "neighbours"), [(0.3, 4), (1.0, 1), (1.0, 60), (2.0, 8), (1e-9, 3)])
def test_ball_query_equals_the_slow_search(
    clouds: int, points: int, radius: float, neighbours: int, lattice: bool
) -> None:
    coords, centres = cloud(clouds, points, lattice=lattice), cloud(clouds, 9, 1, lattice=lattice)
    found = ball_query(centres, coords, radius=radius, neighbours=neighbours)
    assert found.tolist() == slow_ball(centres, coords, radius, neighbours)


@pytest.mark.parametrize("lattice", [False, True])
@pytest.mark.parametrize(("clouds", "points"), SIZES)
@pytest.mark.parametrize("centres", [1, 2, 3, 20])
def test_the_three_nearest_equal_the_slow_search(clouds: int, points: int, centres: int, lattice: bool) -> None:
    coords, some = cloud(clouds, points, lattice=lattice), cloud(clouds, centres, 1, lattice=lattice)
    index, weights = nearest_three(coords, some)
    wanted, shares = slow_three(coords, some)
    assert index.tolist() == wanted
    torch.testing.assert_close(weights, torch.tensor(shares, dtype=torch.float64), rtol=1e-12, atol=1e-15)


def test_a_point_on_a_centre_takes_its_features() -> None:
    centres = cloud(2, 30)
    features = torch.randn(2, 5, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = interpolate_three(features, *nearest_three(centres[:, :, :10], centres))
    torch.testing.assert_close(found, features[:, :, :10], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_interpolation_equals_the_slow_sum_in_every_precision(dtype: torch.dtype) -> None:
    points, centres = cloud(2, 12), cloud(2, 7, 1)
    features = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    index, weights = nearest_three(points, centres)
    wanted = torch.zeros(2, 3, 12, dtype=torch.float64)
    for n, p, k in itertools.product(range(2), range(12), range(3)):
        wanted[n, :, p] += weights[n, p, k] * features[n, :, index[n, p, k]].double()
    found = interpolate_three(features, index, weights)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("shape", [(4,), (4, 6), (2, 3, 2)])
def test_gathering_equals_plain_indexing(shape: tuple[int, ...]) -> None:
    features = torch.randn(3, 5, 11, generator=torch.Generator().manual_seed(0))
    index = torch.randint(11, (3, *shape), generator=torch.Generator().manual_seed(1))
    wanted = torch.stack([features[n][:, index[n]] for n in range(3)])
    assert torch.equal(gather_points(features, index), wanted)


def test_half_coordinates_are_compared_in_float32() -> None:
    coords, centres = cloud(1, 30).half(), cloud(1, 5, 1).half()
    found = ball_query(centres, coords, radius=0.4, neighbours=5)
    assert torch.equal(found, ball_query(centres.float(), coords.float(), radius=0.4, neighbours=5))
    assert torch.equal(farthest_points(coords, 9), farthest_points(coords.float(), 9))
    index, weights = nearest_three(coords, centres)
    assert weights.dtype == torch.float32 and torch.equal(index, nearest_three(coords.float(), centres.float())[0])


def test_gradients_reach_features_and_add_up_where_a_point_is_taken_twice() -> None:
    features = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    index = torch.tensor([[[0, 0, 5]], [[1, 2, 1]]])
    assert torch.autograd.gradcheck(lambda x: gather_points(x, index), (features,))
    found, weights = nearest_three(cloud(2, 4), cloud(2, 6, 1))
    assert torch.autograd.gradcheck(lambda x: interpolate_three(x, found, weights), (features,))
    gather_points(features, index).sum().backward()
    assert features.grad is not None and features.grad[0, 0].tolist() == [2.0, 0, 0, 0, 0, 1.0]


def test_work_in_parts_gives_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    coords, centres = cloud(2, 50), cloud(2, 23, 1)
    whole = ball_query(centres, coords, radius=0.3, neighbours=6), *nearest_three(coords, centres)
    monkeypatch.setattr(points_module, "_PAIRS", 150)
    for got, wanted in zip(
        (ball_query(centres, coords, radius=0.3, neighbours=6), *nearest_three(coords, centres)), whole, strict=True
    ):
        assert torch.equal(got, wanted)


def test_a_cloud_of_a_hundred_thousand_points_needs_no_table_of_all_pairs() -> None:
    """All pairs would be 100,000 x 1,000 distances, 400 MB; the largest tensor made here is counted."""
    coords, centres = cloud(1, 100_000).float(), cloud(1, 1000, 1).float()

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(tensor, Tensor):
                    self.seen = max(self.seen, tensor.untyped_storage().nbytes())
            return out

    with Largest() as largest:
        ball_query(centres, coords, radius=0.05, neighbours=16)
        nearest_three(coords, centres)
    assert largest.seen <= 40e6


@pytest.mark.parametrize(
    "call",
    [
        lambda x: farthest_points(x, 2),
        lambda x: ball_query(x, x, radius=0.1, neighbours=2),
        lambda x: nearest_three(x, x),
    ],
)
def test_coordinates_that_cannot_be_used_are_refused(call: object) -> None:
    with pytest.raises(RangeError, match="1 of 2 points"):
        call(torch.tensor([0.0, torch.nan]).expand(1, 3, 2))  # type: ignore[operator]
    with pytest.raises(ShapeError, match=r"\(N, 3, P\).*got \(1, 3, 0\)"):
        call(torch.zeros(1, 3, 0))  # type: ignore[operator]


def test_arguments_that_ask_for_nothing_are_refused() -> None:
    coords = cloud(1, 4)
    with pytest.raises(InputError, match="1 or more points; got 0"):
        farthest_points(coords, 0)
    with pytest.raises(InputError, match=r"positive.*got 0 and 4"):
        ball_query(coords, coords, radius=0, neighbours=4)
    with pytest.raises(InputError, match="got 1 and 0"):
        ball_query(coords, coords, radius=1, neighbours=0)
    with pytest.raises(ShapeError, match="as many clouds and one dtype"):
        nearest_three(coords, coords.float())
    with pytest.raises(ShapeError, match="as many clouds"):
        ball_query(coords, cloud(2, 4), radius=1, neighbours=1)
    with pytest.raises(ShapeError, match=r"`index` must be \(N, ...\)"):
        gather_points(coords, torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ShapeError, match="`index` and `weights`"):
        interpolate_three(coords, torch.zeros(1, 4, 3, dtype=torch.int64), torch.zeros(1, 5, 3))


def load(shared: Path, name: str) -> Tensor:
    return torch.from_numpy(np.load(shared / "golden/pvcnn/ops.npz", allow_pickle=False)[f"pp.{name}"])


def test_golden_sampling_ball_query_and_interpolation(shared: Path) -> None:
    coords = load(shared, "points")
    chosen = farthest_points(coords, 16)
    assert torch.equal(chosen, load(shared, "fps_idx16").long())
    centres = gather_points(coords, chosen)
    assert torch.equal(ball_query(centres, coords, radius=0.4, neighbours=8), load(shared, "ball_r0.4_u8").long())
    index, weights = nearest_three(coords, centres)
    assert torch.equal(index, load(shared, "three_nn_idx"))
    torch.testing.assert_close(weights, load(shared, "three_nn_w"), rtol=0, atol=1e-6)
    found = interpolate_three(load(shared, "center_features"), index, weights)
    torch.testing.assert_close(found, load(shared, "three_nn"), rtol=0, atol=1e-6)
