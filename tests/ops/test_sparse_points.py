"""Points into voxels and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from effvision.errors import DTypeError, InputError, RangeError, ShapeError
from effvision.host.sparse import FARTHEST
from effvision.ops.sparse import SparseTensor, max_pool3d, submanifold_conv3d
from sparse_grids import random_feats

SIZES = [0.25, np.float32(0.5), 1, (0.2, 0.5, 1.0)]


def some_points(seed: int, count: int, clouds: int = 1, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    draw = np.random.default_rng(seed)
    return torch.from_numpy(draw.uniform(-spread, spread, (count, 3))), torch.from_numpy(
        draw.integers(0, clouds, count)
    )


@given(st.integers(0, 1000), st.integers(1, 60), st.integers(1, 3), st.sampled_from(SIZES))
@settings(max_examples=25)
def test_a_voxel_is_the_mean_of_its_points(seed: int, count: int, clouds: int, voxel_size: Any) -> None:
    points, batch = some_points(seed, count, clouds)
    feats = random_feats(seed, count, 2)
    x, point_map = SparseTensor.from_points(points, feats, voxel_size=voxel_size, batch=batch)
    members: dict[tuple[int, ...], list[int]] = {}
    for number, (place, of) in enumerate(
        zip((points / torch.tensor(voxel_size)).tolist(), batch.tolist(), strict=True)
    ):
        members.setdefault((*(int(np.floor(axis)) for axis in place), of), []).append(number)
    voxels = sorted(members, key=lambda voxel: (voxel[3], *voxel[:3]))
    assert [tuple(voxel) for voxel in x.coords.tolist()] == voxels
    expected = torch.stack([feats[members[voxel]].mean(0) for voxel in voxels])
    torch.testing.assert_close(x.feats, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(x.given(), x.feats[point_map.voxel])
    assert all(voxels[row] == voxel for voxel, rows in members.items() for row in point_map.voxel[rows].tolist())


def test_a_linear_field_is_read_back_exactly_inside_a_full_grid() -> None:
    corner = torch.cartesian_prod(*[torch.arange(5.0)] * 3)
    inside, _ = some_points(0, 50)
    points = torch.cat([corner, 2 + inside.float()])
    x, point_map = SparseTensor.from_points(points, torch.ones(len(points), 1), voxel_size=1)
    slope = torch.tensor([[0.5], [-2.0], [3.0]])
    field = x.coords[:, :3].float() @ slope + 7
    torch.testing.assert_close(point_map.read(field), points @ slope + 7, rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_on_below_and_alone_in_a_voxel_read_what_they_should(dtype: torch.dtype) -> None:
    below = torch.nextafter(torch.tensor(1.0, dtype=dtype), torch.tensor(0.0, dtype=dtype)).item()
    points = torch.tensor([[0, 0, 0], [below, 0, 0], [1, 0, 0], [-7.5, -7.5, -7.5]], dtype=dtype)
    feats = torch.tensor([[1.0], [3.0], [10.0], [-4.0]])
    x, point_map = SparseTensor.from_points(points, feats, voxel_size=1)
    assert x.coords.tolist() == [[-8, -8, -8, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert x.feats[:, 0].tolist() == [-4, 2, 10]
    assert point_map.voxel.tolist() == [1, 1, 2, 0]
    read = point_map.read(x.feats)[:, 0]
    assert read[0] == 2 and read[2] == 10
    torch.testing.assert_close(read, torch.tensor([2.0, 10.0, 10.0, -4.0]))


def test_voxels_may_be_given_as_points_and_duplicates_are_averaged() -> None:
    points = torch.tensor([[3, -2, 5], [3, -2, 5], [0, 0, 0]], dtype=torch.int32)
    x, point_map = SparseTensor.from_points(points, torch.tensor([[2.0], [4.0], [9.0]]), voxel_size=1)
    assert x.coords.tolist() == [[0, 0, 0, 0], [3, -2, 5, 0]]
    assert x.feats.tolist() == [[9.0], [3.0]]
    assert x.given().tolist() == point_map.read(x.feats).tolist() == [[3.0], [3.0], [9.0]]


def test_points_can_be_read_at_a_coarser_level_too() -> None:
    points, batch = some_points(3, 80, 2, spread=4)
    x, _ = SparseTensor.from_points(points, torch.ones(80, 1), voxel_size=0.5, batch=batch)
    down = max_pool3d(x)
    point_map = down.voxels.points(points / 0.5 / 2, batch)
    own = torch.cat([(points / 1.0).floor().long(), batch[:, None]], 1)
    assert torch.equal(down.coords[point_map.voxel].long(), own)


def test_gradients_flow_from_points_to_voxels_and_back() -> None:
    points, batch = some_points(1, 12, 2)
    feats, weight = random_feats(0, 12, 2).requires_grad_(), random_feats(1, 27, 2, 2).requires_grad_()

    def call(feats: Tensor, weight: Tensor) -> Tensor:
        x, point_map = SparseTensor.from_points(points, feats, voxel_size=0.7, batch=batch)
        return point_map.read(submanifold_conv3d(x, weight).feats)

    assert torch.autograd.gradcheck(call, [feats, weight])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_means_and_readings_of_half_types_are_summed_in_single_precision(dtype: torch.dtype) -> None:
    points, _ = some_points(2, 3000)
    feats = (50 + random_feats(0, 3000, 2)).to(dtype)
    x, point_map = SparseTensor.from_points(points, feats, voxel_size=1.0)
    exact, _ = SparseTensor.from_points(points, feats.double(), voxel_size=1.0)
    assert x.feats.dtype == point_map.read(x.feats).dtype == dtype
    half_step = 0.51 * torch.finfo(dtype).eps
    torch.testing.assert_close(x.feats.double(), exact.feats, rtol=half_step, atol=0)
    torch.testing.assert_close(
        point_map.read(x.feats).double(), point_map.read(x.feats.double()), rtol=half_step, atol=0
    )


def test_half_precision_points_are_placed_in_single_precision() -> None:
    points = torch.tensor([[10.3, 0.1, -3.7]], dtype=torch.float16)
    x, _ = SparseTensor.from_points(points, torch.ones(1, 1), voxel_size=0.05)
    assert x.coords[0, :3].tolist() == (points[0].float() / torch.tensor(0.05)).floor().int().tolist()


POINTS, FEATS = torch.zeros(3, 3), torch.ones(3, 1)


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"points": POINTS[:2]}, ShapeError, "`feats` has 3 rows and `points`"),
        ({"points": POINTS[:, :2]}, ShapeError, r"must be \(P, 3\)"),
        ({"points": POINTS[:0], "feats": FEATS[:0]}, ShapeError, "no voxel"),
        ({"points": POINTS.bool()}, DTypeError, "real numbers"),
        ({"points": POINTS + torch.nan}, RangeError, "must lie in"),
        ({"points": POINTS - torch.inf}, RangeError, "must lie in"),
        ({"points": POINTS + 2.0 * FARTHEST}, RangeError, "must lie in"),
        ({"points": POINTS + 1e30}, RangeError, "must lie in"),
        ({"points": POINTS.to("meta")}, InputError, "move one of them"),
        ({"feats": FEATS.long()}, DTypeError, "floating"),
        ({"batch": torch.zeros(2).long()}, ShapeError, "`feats` has 3 rows and `batch`"),
        ({"batch": torch.zeros(3)}, DTypeError, "`batch` must be"),
        ({"batch": torch.full((3,), -1)}, RangeError, "batches"),
        ({"batch": torch.full((3,), 2), "batch_size": 2}, RangeError, "at least 3"),
        ({"voxel_size": 0.0}, RangeError, "`voxel_size` must be above 0"),
        ({"voxel_size": (1.0, 2.0)}, RangeError, "`voxel_size` must be above 0"),
        ({"voxel_size": float("nan")}, RangeError, "`voxel_size` must be above 0"),
        ({"voxel_size": torch.ones(3)}, RangeError, "`voxel_size` must be above 0"),
        ({"voxel_size": "1.0"}, RangeError, "`voxel_size` must be above 0"),
        ({"voxel_size": None}, RangeError, "`voxel_size` must be above 0"),
        ({"points": POINTS.numpy()}, DTypeError, "`points` must be a tensor; got ndarray"),
        ({"batch": [0, 0, 0]}, DTypeError, "`batch` must be a tensor; got list"),
    ],
)
def test_points_that_cannot_become_voxels_are_refused(
    changed: dict[str, Any], error: type[Exception], words: str
) -> None:
    arguments = {"points": POINTS, "feats": FEATS, "voxel_size": 1.0, **changed}
    with pytest.raises(error, match=words):
        SparseTensor.from_points(arguments.pop("points"), arguments.pop("feats"), **arguments)


def test_a_map_takes_the_rows_it_was_made_for() -> None:
    x, point_map = SparseTensor.from_points(*some_points(0, 9)[:1], torch.ones(9, 1), voxel_size=1.0)
    with pytest.raises(ShapeError, match="as the map was made for"):
        point_map.mean(torch.ones(8, 1))
    with pytest.raises(ShapeError, match="as the map was made for"):
        point_map.read(torch.ones(len(x) + 1, 1))
