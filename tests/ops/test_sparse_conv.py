"""Convolution and pooling over a kernel map, against the plain form, gradients by differences and the golden layers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from effvision.errors import DTypeError, InputError, ShapeError
from effvision.host.sparse import coarser, neighbours, pack, sort_keys, unpack
from effvision.ops import sparse_conv
from effvision.ops.sparse_conv import KernelMap, convolve, pool
from sparse_grids import cloud, random_feats, volume

# kernel, stride; None: submanifold
MAPS: list[tuple[Any, Any]] = [(3, None), (2, None), (1, None), ((3, 1, 1), None), (2, 2), (3, 2), (3, 1), (1, 2)]


def a_map(kernel: Any, stride: Any, **options: Any) -> KernelMap:
    keys, _ = sort_keys(pack(cloud(11, **{"side": 5, "batches": 2, **options})))
    return KernelMap.of(neighbours(keys, kernel) if stride is None else coarser(keys, kernel, stride)[1])


def inputs_for(
    kernel_map: KernelMap, inputs: int = 3, outputs: int = 5, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shapes = ((kernel_map.inputs, inputs), (kernel_map.kernel_volume, inputs, outputs), (outputs,))
    x, weight, bias = (random_feats(seed, *shape, dtype=dtype) for seed, shape in enumerate(shapes))
    return x, weight, bias, random_feats(3, kernel_map.outputs, outputs, dtype=dtype)


def slow(x: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """Pair by pair."""
    out = x.new_zeros(kernel_map.outputs, weight.shape[2])
    for k in range(kernel_map.kernel_volume):
        for source, target in zip(*(rows.tolist() for rows in kernel_map.pairs(k)), strict=True):
            out[target] += x[source] @ weight[k]
    return out + x @ weight[kernel_map.identity] if kernel_map.identity >= 0 else out


@pytest.mark.parametrize("part", [1, 7, 64, 49152])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("kernel", "stride"), MAPS)
def test_parts_of_any_size_sum_what_single_pairs_do(
    kernel: Any, stride: Any, turned: bool, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse_conv, "_PART", part)
    kernel_map = a_map(kernel, stride)
    kernel_map = kernel_map.turned if turned else kernel_map
    x, weight, bias, residual = inputs_for(kernel_map)
    expected = slow(x, weight, kernel_map)
    torch.testing.assert_close(convolve(x, weight, kernel_map), expected)
    torch.testing.assert_close(sparse_conv._by_offset(x, weight, kernel_map, None, None, relu=False), expected)
    with_all = convolve(x, weight, kernel_map, bias=bias, residual=residual, relu=True)
    torch.testing.assert_close(with_all, (expected + bias + residual).relu())
    by_offset = sparse_conv._by_offset(x, weight, kernel_map, bias, residual, relu=True)
    torch.testing.assert_close(by_offset, with_all)


@pytest.mark.parametrize("given", [(), ("bias",), ("residual",), ("bias", "residual")])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("stride", [None, 2])
def test_bias_residual_and_relu_are_the_same_with_and_without_gradients(
    stride: Any, relu: bool, given: tuple[str, ...]
) -> None:
    kernel_map = a_map(2, stride)
    x, weight, bias, residual = inputs_for(kernel_map)
    more = {name: value for name, value in (("bias", bias), ("residual", residual)) if name in given}
    expected = slow(x, weight, kernel_map) + sum(more.values())
    expected = expected.relu() if relu else expected
    torch.testing.assert_close(convolve(x, weight, kernel_map, relu=relu, **more), expected)
    torch.testing.assert_close(convolve(x, weight.requires_grad_(), kernel_map, relu=relu, **more), expected)


def test_nothing_given_is_written_to() -> None:
    kernel_map = a_map(3, None)
    given = inputs_for(kernel_map)
    copies = [value.clone() for value in given]
    convolve(given[0], given[1], kernel_map, bias=given[2], residual=given[3], relu=True)
    assert all(torch.equal(value, copy) for value, copy in zip(given, copies, strict=True))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("kernel", "stride"), [(3, None), (2, None), (2, 2), (3, 2)])
def test_gradients_are_those_of_differences(kernel: Any, stride: Any, turned: bool) -> None:
    kernel_map = a_map(kernel, stride, side=2, share=0.9)
    kernel_map = kernel_map.turned if turned else kernel_map
    given = [value.requires_grad_() for value in inputs_for(kernel_map, 2, 2)]

    def call(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        return convolve(x, weight, kernel_map, bias=bias, residual=residual, relu=True)

    assert torch.autograd.gradcheck(call, given)


@pytest.mark.parametrize("wanted", [0, 1, 2, 3])
def test_each_tensor_alone_may_ask_for_a_gradient(wanted: int) -> None:
    kernel_map = a_map(3, 2)
    given = list(inputs_for(kernel_map))
    given[wanted].requires_grad_()
    x, weight, bias, residual = given
    convolve(x, weight, kernel_map, bias=bias, residual=residual).sum().backward()
    assert [value.grad is not None for value in given] == [index == wanted for index in range(4)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_types_are_summed_in_single_precision(dtype: torch.dtype) -> None:
    kernel_map = a_map(3, None)
    x, weight, bias, residual = inputs_for(kernel_map, 16, 8, dtype)
    out = convolve(x, weight, kernel_map, bias=bias, residual=residual)
    expected = slow(x.double(), weight.double(), kernel_map) + bias.double() + residual.double()
    assert out.dtype == dtype
    one_rounding = 3e-6 if dtype == torch.float32 else 0.51 * torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), expected, rtol=one_rounding, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_have_gradients(dtype: torch.dtype) -> None:
    kernel_map = a_map(2, 2)
    given = [value.requires_grad_() for value in inputs_for(kernel_map, dtype=dtype)]
    exact = [value.detach().double().requires_grad_() for value in given]
    for x, weight, bias, residual in (given, exact):
        convolve(x, weight, kernel_map, bias=bias, residual=residual).square().sum().backward()
    for half, double in zip(given, exact, strict=True):
        assert half.grad is not None and double.grad is not None and half.grad.dtype == dtype
        scale = double.grad.abs().max()
        torch.testing.assert_close(half.grad.double() / scale, double.grad / scale, rtol=0, atol=0.03)


def test_what_does_not_fit_is_refused() -> None:
    kernel_map = a_map(3, None)
    x, weight, bias, residual = inputs_for(kernel_map)
    cases: list[tuple[type[InputError], str, dict[str, Any]]] = [
        (ShapeError, "a row for each voxel of the map", {"x": x[:-1]}),
        (ShapeError, "`x` must be", {"x": x[None]}),
        (ShapeError, "K=27 offsets and C_in=3", {"weight": weight[:8]}),
        (ShapeError, "K=27 offsets and C_in=3", {"weight": weight[:, :2]}),
        (ShapeError, r"`bias` must be \(5,\)", {"bias": bias[:4]}),
        (ShapeError, "`residual` must be", {"residual": residual[1:]}),
        (DTypeError, "floating", {"x": x.long()}),
        (DTypeError, "make them one dtype", {"weight": weight.float()}),
        (DTypeError, "make them one dtype", {"bias": bias.half()}),
        (InputError, "move them to one device", {"weight": weight.to("meta")}),
        (InputError, "move them to one device", {"residual": residual.to("meta")}),
        (InputError, "kernel map on cpu", {"x": x.to("meta"), "weight": weight.to("meta"), "bias": None}),
    ]
    for error, words, changed in cases:
        arguments = {"x": x, "weight": weight, "bias": bias, **changed}
        with pytest.raises(error, match=words):
            convolve(arguments.pop("x"), arguments.pop("weight"), kernel_map, **arguments)


# -- pooling ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["max", "mean"])
@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 2), (3, None), (2, 1)])
def test_pooling_looks_at_the_voxels_that_are_there(kernel: Any, stride: Any, mode: str) -> None:
    kernel_map = a_map(kernel, stride)
    x = random_feats(0, kernel_map.inputs, 4)
    seen: list[list[int]] = [[] for _ in range(kernel_map.outputs)]
    for k in range(kernel_map.kernel_volume):
        for source, target in zip(*(rows.tolist() for rows in kernel_map.pairs(k)), strict=True):
            seen[target].append(source)
    if kernel_map.identity >= 0:
        for row in range(kernel_map.outputs):
            seen[row].append(row)
    expected = torch.stack([x[rows].amax(0) if mode == "max" else x[rows].mean(0) for rows in seen])
    torch.testing.assert_close(pool(x, kernel_map, mode), expected)


def test_the_greatest_of_negative_numbers_is_negative() -> None:
    kernel_map = a_map(2, 2)
    assert (pool(-torch.ones(kernel_map.inputs, 1), kernel_map, "max") == -1).all()


@pytest.mark.parametrize("mode", ["max", "mean"])
def test_pooling_has_gradients(mode: str) -> None:
    kernel_map = a_map(2, 2, side=3)
    x = random_feats(0, kernel_map.inputs, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pool(x, kernel_map, mode), [x])


def test_means_of_half_types_are_summed_in_single_precision() -> None:
    kernel_map = a_map(3, 3, side=6, share=1.0)
    x = (100 + random_feats(0, kernel_map.inputs, 2)).half()
    exact = pool(x.double(), kernel_map, "mean")
    torch.testing.assert_close(pool(x, kernel_map, "mean").double(), exact, rtol=5.1e-4, atol=0)


def test_pooling_refuses_what_does_not_fit() -> None:
    kernel_map = a_map(2, 2)
    x = torch.ones(kernel_map.inputs, 1)
    with pytest.raises(InputError, match="max or mean"):
        pool(x, kernel_map, "min")
    with pytest.raises(ShapeError, match="as the map was made for"):
        pool(x[1:], kernel_map, "max")
    with pytest.raises(DTypeError, match="floating"):
        pool(x.long(), kernel_map, "max")
    with pytest.raises(InputError, match="kernel map on cpu"):
        pool(x.to("meta"), kernel_map, "max")


# -- golden ----------------------------------------------------------------------------------------------------------------


def golden_weights(folder: Path, name: str) -> dict[str, Tensor]:
    spec = importlib.util.spec_from_file_location("sparse_recipe", folder / "recipe.py")
    assert spec is not None and spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    made = recipe.make_state(json.loads((folder / f"{name}.keys.json").read_text("utf-8")))
    return {key: torch.from_numpy(value) for key, value in made.items()}


def test_golden_layers_are_those_of_the_reference(shared: Path) -> None:
    folder = shared / "golden" / "sparse"
    weights = golden_weights(folder, "layers_2000")
    with np.load(folder / "layers_2000.npz") as stored:
        golden = dict(stored)
    coords = np.column_stack([golden["coords"], np.zeros(len(golden["coords"]), np.int16)])
    keys, rows = sort_keys(pack(coords))
    near = KernelMap.of(neighbours(keys))
    above, pairs = coarser(keys)
    down, near_above = KernelMap.of(pairs), KernelMap.of(neighbours(above))
    counts = np.diff(near.bounds)
    counts[near.identity] = near.inputs
    assert (counts == golden["subm_pairs_per_offset"]).all()
    assert (unpack(above)[:, :3] * 2 == golden["down_coords"]).all()

    x = torch.empty(len(keys), 4).index_copy(0, torch.from_numpy(rows), torch.from_numpy(golden["feats"]))
    first = convolve(x, weights["conv3.kernel"], near)
    second = convolve(first, weights["down.kernel"], down)
    third = convolve(second, weights["conv3b.kernel"], near_above)
    fourth = convolve(third, weights["up.kernel"], down.turned)
    for found, name in ((first[rows], "conv3"), (second, "down"), (third, "conv3b"), (fourth[rows], "up")):
        expected = torch.from_numpy(golden[name])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.std()) + 1e-5)
    assert volume(3) == len(weights["conv3.kernel"])
