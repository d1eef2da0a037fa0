"""Sparse tensors and their operators against dense ones in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from numpy.typing import NDArray
from torch import Tensor

from effvision.errors import DTypeError, InputError, RangeError, ShapeError
from effvision.host.sparse import FARTHEST
from effvision.ops.sparse import (
    SparseTensor,
    avg_pool3d,
    cat,
    global_avg_pool3d,
    global_max_pool3d,
    max_pool3d,
    sparse_conv3d,
    sparse_conv_transpose3d,
    submanifold_conv3d,
)
from sparse_grids import (
    KERNELS,
    STRIDED,
    Triple,
    box,
    cloud,
    clouds,
    dense_conv,
    dense_weight,
    padded,
    random_feats,
    reaches,
    three,
    volume,
)


def tensor_of(coords: NDArray[np.int64], channels: int = 2, dtype: torch.dtype = torch.float64) -> SparseTensor:
    return SparseTensor(random_feats(0, len(coords), channels, dtype=dtype), torch.from_numpy(coords))


def weight_for(kernel: Any, inputs: int = 2, outputs: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return random_feats(1, volume(kernel), inputs, outputs, dtype=dtype)


def occupancy(x: SparseTensor, origin: Triple, size: Triple) -> Tensor:
    """(N, 1, X, Y, Z) of ones and zeros."""
    return x.replace_feature(torch.ones_like(x.feats[:, :1])).to_dense(origin=origin, size=size)[0]


def at(grid: Tensor, coords: Tensor, origin: Any) -> Tensor:
    """Rows (V, C) of a grid (N, C, X, Y, Z) at voxels (V, 4)."""
    x, y, z = (coords[:, axis].long() - int(origin[axis]) for axis in range(3))
    return grid[coords[:, 3].long(), :, x, y, z]


def voxels_there(grid: Tensor, origin: Any) -> list[list[int]]:
    """Sorted voxels x, y, z, batch of a grid (N, 1, X, Y, Z) of flags."""
    found = grid[:, 0].nonzero() + torch.tensor([0, *origin])
    return found[:, [1, 2, 3, 0]].tolist()


# -- the tensor ------------------------------------------------------------------------------------------------------------


@given(clouds())
@settings(max_examples=20)
def test_rows_are_sorted_and_the_given_order_is_remembered(coords: NDArray[np.int64]) -> None:
    feats = random_feats(0, len(coords), 3)
    x = SparseTensor(feats, torch.from_numpy(coords))
    assert torch.equal(x.given(), feats)
    order = np.lexsort(coords.T[[2, 1, 0, 3]])
    assert (x.coords.numpy() == coords[order]).all()
    assert torch.equal(x.feats, feats[order])
    assert (len(x), x.batch_size, x.stride) == (len(coords), coords[:, 3].max() + 1, (1, 1, 1))


@given(clouds())
@settings(max_examples=20)
def test_a_dense_grid_and_back_is_the_same_tensor(coords: NDArray[np.int64]) -> None:
    x = tensor_of(coords)
    dense, origin = x.to_dense()
    assert tuple(dense.shape) == (x.batch_size, 2, *(np.ptp(coords[:, :3], axis=0) + 1))
    assert origin == tuple(coords[:, :3].min(axis=0))
    assert int((dense != 0).any(1).sum()) == len(x)
    back = SparseTensor.from_dense(dense, origin=origin)
    assert torch.equal(back.coords, x.coords) and torch.equal(back.feats, x.feats)
    assert back.batch_size == x.batch_size


def test_occupied_voxels_of_a_grid_may_be_zero() -> None:
    dense, occupied = torch.zeros(2, 3, 2, 2, 2), torch.zeros(2, 2, 2, 2, dtype=torch.bool)
    occupied[1, 0, 1, 1] = True
    x = SparseTensor.from_dense(dense, occupied=occupied, origin=(5, -5, 0))
    assert x.coords.tolist() == [[5, -4, 1, 1]] and x.batch_size == 2
    with pytest.raises(ShapeError, match="holds no voxel"):
        SparseTensor.from_dense(dense)


def test_grids_have_gradients() -> None:
    x = tensor_of(cloud(0, side=2))
    feats = x.feats.requires_grad_()
    assert torch.autograd.gradcheck(lambda feats: x.replace_feature(feats).to_dense()[0], [feats])
    dense = random_feats(0, 1, 2, 2, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda dense: SparseTensor.from_dense(dense).feats, [dense])


def test_a_grid_that_does_not_hold_all_voxels_is_refused() -> None:
    x = tensor_of(np.array([[0, 0, 0, 0], [4, 0, 0, 0]]))
    assert x.to_dense(size=(7, 1, 1))[0].shape == (1, 2, 7, 1, 1)
    for box_of in ({"origin": (1, 0, 0)}, {"size": (4, 1, 1)}, {"origin": (0, 0, 0), "size": (4, 4, 4)}):
        with pytest.raises(RangeError, match="outside a grid"):
            x.to_dense(**box_of)


def test_channels_join_and_tensors_add_up_on_the_same_voxels_alone() -> None:
    coords = cloud(0)
    x, y = tensor_of(coords, 2), tensor_of(coords, 3)
    assert torch.equal(cat([x, y]).feats, torch.cat([x.feats, y.feats], 1))
    assert torch.equal((x + x).feats, 2 * x.feats)
    moved = tensor_of(coords + 1, 2)
    for call in (lambda: x + moved, lambda: cat([x, moved]), lambda: cat([])):
        with pytest.raises(InputError):
            call()


def test_tensors_of_different_channels_are_not_added_up() -> None:
    coords = cloud(0)
    for channels in (1, 3):  # one channel would be repeated in silence
        with pytest.raises(ShapeError, match=f"2 channels and {channels}"):
            tensor_of(coords, 2) + tensor_of(coords, channels)


def test_the_same_rows_at_another_stride_are_other_voxels() -> None:
    coords = torch.from_numpy(cloud(0))
    x, y = (SparseTensor(random_feats(0, len(coords), 2), coords, stride=stride) for stride in (1, 2))
    with pytest.raises(InputError, match="different voxels"):
        cat([x, y])


def test_a_tensor_that_was_made_has_no_given_order() -> None:
    down = max_pool3d(tensor_of(cloud(0)))
    with pytest.raises(InputError, match="made, not given"):
        down.given()


COORDS = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [0, -4, 0, 1]])
FEATS = torch.ones(3, 2)


@pytest.mark.parametrize(
    ("feats", "coords", "error", "words"),
    [
        (FEATS[:2], COORDS, ShapeError, "`feats` has 2 rows"),
        (FEATS[:, 0], COORDS, ShapeError, r"`feats` must be \(rows, C\)"),
        (FEATS, COORDS[:, :3], ShapeError, r"must be \(V, 4\)"),
        (FEATS[:0], COORDS[:0], ShapeError, "holds no voxel"),
        (FEATS.long(), COORDS, DTypeError, "floating"),
        (FEATS.numpy(), COORDS, DTypeError, "`feats` must be a tensor; got ndarray"),
        (FEATS, COORDS.numpy(), DTypeError, "`coords` must be a tensor; got ndarray"),
        (FEATS, COORDS.float(), DTypeError, "whole numbers"),
        (FEATS, COORDS.bool(), DTypeError, "whole numbers"),
        (FEATS, COORDS + FARTHEST, RangeError, "must lie in"),
        (FEATS, COORDS - 1, RangeError, "batches"),
        (FEATS, COORDS[[0, 1, 0]], InputError, "1 voxels twice"),
        (FEATS.to("meta"), COORDS, InputError, "move one of them"),
        (FEATS, COORDS.to("meta"), InputError, "move one of them"),
        (FEATS.to("meta"), COORDS.to("meta"), InputError, "meta device"),
    ],
)
def test_what_is_no_sparse_tensor_is_refused(feats: Tensor, coords: Tensor, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        SparseTensor(feats, coords)


@pytest.mark.parametrize("stride", [0, (1, 2), 1.5])
def test_a_stride_is_one_or_three_whole_numbers(stride: Any) -> None:
    with pytest.raises(InputError, match="`stride` must be"):
        SparseTensor(FEATS, COORDS, stride=stride)


def test_features_that_replace_others_have_their_rows() -> None:
    x = SparseTensor(FEATS, COORDS)
    with pytest.raises(ShapeError, match="a row for each voxel"):
        x.replace_feature(FEATS[:2])
    with pytest.raises(DTypeError, match="floating"):
        x.replace_feature(FEATS.int())
    with pytest.raises(InputError, match="move one"):
        x.replace_feature(FEATS.to("meta"))


# -- convolutions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "dilation"), KERNELS)
@given(coords=clouds())
@settings(max_examples=6)
def test_a_submanifold_convolution_is_the_dense_one_at_its_voxels(
    coords: NDArray[np.int64], kernel: Any, dilation: Any
) -> None:
    x, weight = tensor_of(coords), weight_for(kernel)
    out = submanifold_conv3d(x, weight, kernel_size=kernel, dilation=dilation)
    dense, origin = x.to_dense()
    expected = at(dense_conv(dense, weight, kernel, 1, dilation), x.coords, origin)
    torch.testing.assert_close(out.feats, expected)
    assert out.voxels is x.voxels


@pytest.mark.parametrize(("kernel", "stride", "dilation"), STRIDED)
@given(coords=clouds())
@settings(max_examples=6)
def test_a_strided_convolution_is_the_dense_one_where_it_sees_a_voxel(
    coords: NDArray[np.int64], kernel: Any, stride: Any, dilation: Any
) -> None:
    x, weight = tensor_of(coords), weight_for(kernel)
    origin, size = box(coords, stride)
    dense, there = x.to_dense(origin=origin, size=size)[0], occupancy(x, origin, size)
    first = np.array(origin) // three(stride)
    seen = dense_conv(there, torch.ones_like(weight[:, :1, :1]), kernel, stride, dilation) > 0.5
    if not seen.any():
        with pytest.raises(InputError, match="no voxel falls under"):
            sparse_conv3d(x, weight, kernel_size=kernel, stride=stride, dilation=dilation)
        return
    out = sparse_conv3d(x, weight, kernel_size=kernel, stride=stride, dilation=dilation)
    assert out.coords.tolist() == voxels_there(seen, first)
    expected = at(dense_conv(dense, weight, kernel, stride, dilation), out.coords, first)
    torch.testing.assert_close(out.feats, expected)
    assert (out.stride, out.batch_size) == (three(stride), x.batch_size)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), STRIDED)
@given(coords=clouds())
@settings(max_examples=6)
def test_a_transposed_convolution_is_the_dense_one_at_the_finer_voxels(
    coords: NDArray[np.int64], kernel: Any, stride: Any, dilation: Any
) -> None:
    fine, weight = tensor_of(coords), weight_for(kernel)
    try:
        coarse, kernel_map = fine.voxels.down(kernel, stride, dilation)
    except InputError:
        return
    x = SparseTensor.on(coarse, random_feats(2, len(coarse), 2))
    out = sparse_conv_transpose3d(x, weight, fine, kernel_size=kernel, dilation=dilation)
    assert out.voxels is fine.voxels
    assert fine.voxels.between(coarse, kernel, dilation) is kernel_map
    dense, origin = x.to_dense()
    spread = F.conv_transpose3d(dense, dense_weight(weight, kernel), stride=stride, dilation=dilation)
    # output j of conv_transpose3d stands at origin * stride + least offset + j; the box is widened to hold every fine voxel
    least = [low for low, _ in reaches(kernel, dilation)]
    first = np.array(origin) * three(stride) + least
    spread = F.pad(spread, (8,) * 6)
    torch.testing.assert_close(out.feats, at(spread, fine.coords, first - 8))


def test_up_goes_to_the_finer_voxels_from_coarse_ones_that_were_not_made_of_them() -> None:
    coords = cloud(3, side=6, batches=2)
    fine = tensor_of(coords)
    made = fine.voxels.down(2, 2)[0]
    chosen = made.coords[::3]
    x = SparseTensor(random_feats(2, len(chosen), 2), chosen, stride=2)
    weight, bias = weight_for(2), random_feats(4, 3)
    out = sparse_conv_transpose3d(x, weight, fine, bias)
    dense, origin = x.to_dense()
    spread = F.pad(F.conv_transpose3d(dense, dense_weight(weight, 2), stride=2), (16,) * 6)
    torch.testing.assert_close(out.feats, at(spread, fine.coords, np.array(origin) * 2 - 16) + bias)


def test_down_and_up_again_ends_in_the_given_order() -> None:
    coords = cloud(5, side=5, batches=2)
    x = tensor_of(coords)
    up = sparse_conv_transpose3d(sparse_conv3d(x, weight_for(2, 2, 3)), weight_for(2, 3, 4), x.voxels)
    assert up.given().shape == (len(coords), 4)
    turned = np.random.default_rng(0).permutation(len(coords))
    y = SparseTensor(x.given()[turned], torch.from_numpy(coords[turned]))
    again = sparse_conv_transpose3d(sparse_conv3d(y, weight_for(2, 2, 3)), weight_for(2, 3, 4), y)
    torch.testing.assert_close(again.given(), up.given()[turned], rtol=0, atol=0)


def test_clouds_of_a_batch_do_not_see_each_other() -> None:
    coords = cloud(7, side=4, batches=3, share=0.6)
    together = tensor_of(coords)

    def run(x: SparseTensor) -> SparseTensor:
        down = sparse_conv3d(submanifold_conv3d(x, weight_for(3)), weight_for(3, 3, 3), kernel_size=3, stride=2)
        return sparse_conv_transpose3d(down, weight_for(3, 3, 2), x, kernel_size=3)

    out = run(together).given()
    for number in range(3):
        own = coords[:, 3] == number
        alone = SparseTensor(together.given()[own], torch.from_numpy(coords[own] * [1, 1, 1, 0]))
        torch.testing.assert_close(run(alone).given(), out[own])


def test_bias_residual_and_relu_come_after_the_sum() -> None:
    x, weight, bias = tensor_of(cloud(0)), weight_for(3), random_feats(2, 3)
    plain = submanifold_conv3d(x, weight)
    residual = x.replace_feature(random_feats(5, len(x), 3))
    out = submanifold_conv3d(x, weight, bias, residual=residual, relu=True)
    torch.testing.assert_close(out.feats, (plain.feats + bias + residual.feats).relu())
    down = sparse_conv3d(x, weight_for(2), bias, relu=True)
    torch.testing.assert_close(down.feats, (sparse_conv3d(x, weight_for(2)).feats + bias).relu())


def test_a_single_tap_may_be_a_plain_matrix() -> None:
    x, weight = tensor_of(cloud(0)), weight_for(1)
    expected = x.feats @ weight[0]
    torch.testing.assert_close(submanifold_conv3d(x, weight[0], kernel_size=1).feats, expected)
    torch.testing.assert_close(submanifold_conv3d(x, weight, kernel_size=1).feats, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_operators_keep_the_dtype(dtype: torch.dtype) -> None:
    x = tensor_of(cloud(0, side=5), dtype=dtype)
    down = sparse_conv3d(x, weight_for(2, dtype=dtype))
    up = sparse_conv_transpose3d(down, weight_for(2, 3, 2, dtype=dtype), x)
    results = [down.feats, up.feats, submanifold_conv3d(x, weight_for(3, dtype=dtype)).feats, max_pool3d(x).feats]
    results += [avg_pool3d(x).feats, global_avg_pool3d(x), global_max_pool3d(x)]
    assert {result.dtype for result in results} == {dtype}
    exact = SparseTensor.on(x.voxels, x.feats.double())
    wide = sparse_conv3d(exact, weight_for(2, dtype=dtype).double())
    torch.testing.assert_close(down.feats.double(), wide.feats, rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_gradients_reach_features_and_weights_through_a_small_network() -> None:
    coords = cloud(1, side=2, batches=2, share=0.9)
    x = tensor_of(coords)
    given = [x.given(), weight_for((3, 1, 3)), weight_for(2, 3, 2), weight_for(2, 2, 2)]

    def call(feats: Tensor, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
        y = submanifold_conv3d(SparseTensor(feats, torch.from_numpy(coords)), first, kernel_size=(3, 1, 3))
        up = sparse_conv_transpose3d(sparse_conv3d(y, second), third, y)
        return torch.cat(
            [cat([up, avg_pool3d(up, 3, 1)]).given().flatten(), global_avg_pool3d(max_pool3d(up)).flatten()]
        )

    assert torch.autograd.gradcheck(call, [value.detach().requires_grad_() for value in given])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: submanifold_conv3d(x, weight_for(2)), ShapeError, r"must be \(27, C_in, C_out\)"),
        (lambda x: sparse_conv3d(x, weight_for(3)), ShapeError, r"must be \(8, C_in, C_out\)"),
        (lambda x: submanifold_conv3d(x, weight_for(3)[0]), ShapeError, r"must be \(27, C_in, C_out\)"),
        (lambda x: submanifold_conv3d(x, weight_for(3, 5)), ShapeError, "C_in=2"),
        (lambda x: submanifold_conv3d(x, weight_for(3).float()), DTypeError, "make them one dtype"),
        (lambda x: submanifold_conv3d(x, weight_for(3).to("meta")), InputError, "move them to one device"),
        (lambda x: submanifold_conv3d(x, weight_for(3), kernel_size=0), InputError, "`kernel_size` must be"),
        (lambda x: submanifold_conv3d(x, weight_for(3), dilation=0), InputError, "`dilation` must be"),
        (lambda x: sparse_conv3d(x, weight_for(2), stride=(2, 2)), InputError, "`stride` must be"),
        (lambda x: submanifold_conv3d(x, weight_for(3), residual=max_pool3d(x)), InputError, "different voxels"),
        (lambda x: sparse_conv_transpose3d(x, weight_for(2), max_pool3d(x)), InputError, "finer level last"),
        (lambda x: max_pool3d(x, 1, 7), InputError, "no voxel falls under"),
    ],
)
def test_what_does_not_fit_an_operator_is_refused(
    call: Callable[[SparseTensor], Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        call(tensor_of(np.array([[1, 1, 1, 0], [2, 1, 1, 0]])))


# -- poolings --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(2, None, 1), (3, 2, 1), (2, 2, 2), ((1, 2, 3), None, 1)])
@given(coords=clouds())
@settings(max_examples=6)
def test_poolings_are_the_dense_ones_over_the_voxels_that_are_there(
    coords: NDArray[np.int64], kernel: Any, stride: Any, dilation: Any
) -> None:
    x = tensor_of(coords)
    steps = kernel if stride is None else stride
    origin, size = box(coords, steps)
    dense, there = x.to_dense(origin=origin, size=size)[0], occupancy(x, origin, size)
    ones = torch.ones(volume(kernel), 1, 1, dtype=torch.float64)
    counts = dense_conv(there, ones, kernel, steps, dilation)
    first = np.array(origin) // three(steps)
    if not (counts > 0.5).any():
        return
    greatest, mean = max_pool3d(x, kernel, stride, dilation), avg_pool3d(x, kernel, stride, dilation)
    assert greatest.voxels is mean.voxels
    assert mean.coords.tolist() == voxels_there(counts > 0.5, first)
    lowest = torch.where(there > 0, dense, -torch.inf)
    tops = F.max_pool3d(padded(lowest, kernel, dilation, -torch.inf), kernel, steps, dilation=dilation)
    assert torch.equal(greatest.feats, at(tops, greatest.coords, first))
    sums = torch.cat([dense_conv(dense[:, k : k + 1], ones, kernel, steps, dilation) for k in range(2)], 1)
    torch.testing.assert_close(mean.feats, at(sums / counts, mean.coords, first))


def test_pooling_with_stride_one_keeps_the_voxels() -> None:
    x = tensor_of(cloud(2))
    out = max_pool3d(x, 3, 1)
    assert out.voxels is x.voxels
    assert (out.feats >= x.feats).all()


def test_each_cloud_is_pooled_by_itself() -> None:
    coords = cloud(8, batches=3, share=0.7)
    x = tensor_of(coords)
    rows = [x.given()[coords[:, 3] == number] for number in range(3)]
    torch.testing.assert_close(global_avg_pool3d(x), torch.stack([own.mean(0) for own in rows]))
    torch.testing.assert_close(global_max_pool3d(x), torch.stack([own.amax(0) for own in rows]))


@pytest.mark.parametrize("pooled", [global_avg_pool3d, global_max_pool3d])
def test_a_cloud_without_a_voxel_cannot_be_pooled(pooled: Callable[[SparseTensor], Tensor]) -> None:
    x = SparseTensor(FEATS, COORDS * torch.tensor([1, 1, 1, 2]), batch_size=4)
    with pytest.raises(InputError, match="cloud 1 of 4 has no voxel"):
        pooled(x)
