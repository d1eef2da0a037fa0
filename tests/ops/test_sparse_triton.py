"""The Triton kernel against plain torch: on a GPU where there is one, otherwise in Triton's interpreter on a CPU."""

from __future__ import annotations

import json
import logging
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from effvision.errors import DTypeError, InputError
from effvision.host.sparse import coarser, neighbours, pack, sort_keys
from effvision.ops import sparse_backends
from effvision.ops.sparse_backends import sparse_backend
from effvision.ops.sparse_conv import KernelMap, convolve

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is first imported: it looks at its own import

pytest.importorskip("triton", reason="no Triton here (it comes with torch's CUDA builds): see CONTRIBUTING.md, Tests")

from effvision.ops import sparse_triton as kernel  # noqa: E402

CLOSE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}  # of the greatest output


def keys_of(voxels: int, side: int = 9) -> np.ndarray:
    """So many voxels of two clouds in a cube, negative coordinates too."""
    draw = np.random.default_rng(voxels)
    cells = draw.permutation(2 * side**3)[:voxels]
    place = np.stack(np.unravel_index(cells, (side, side, side, 2)), axis=1) - [side // 2, 2, 0, 0]
    return sort_keys(pack(place))[0]


def rows(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype).to(DEVICE)


def check(kernel_map: KernelMap, inputs: int, outputs: int, dtype: torch.dtype) -> None:
    """Compare with and without bias, residual and ReLU, with a float64 convolution in plain torch."""
    x = rows(kernel_map.inputs, inputs, seed=1, dtype=dtype)
    weight = rows(kernel_map.kernel_volume, inputs, outputs, seed=2, dtype=dtype)
    bias, residual = rows(outputs, seed=3, dtype=dtype), rows(kernel_map.outputs, outputs, seed=4, dtype=dtype)
    for more, relu in (((None, None), False), ((bias, None), True), ((bias, residual), True)):
        wide = [None if one is None else one.double() for one in more]
        want = convolve(x.double(), weight.double(), kernel_map, bias=wide[0], residual=wide[1], relu=relu)
        got = kernel.by_triton(x, weight, kernel_map, *more, relu=relu)
        assert got.dtype == dtype and got.shape == want.shape
        assert (got.double() - want).abs().max() <= CLOSE[dtype] * want.abs().max()


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize(("size", "inputs", "outputs"), [(1, 4, 16), (2, 33, 20), (3, 5, 70), (3, 70, 3)])
def test_a_submanifold_convolution_equals_torch(size: int, inputs: int, outputs: int, dtype: torch.dtype) -> None:
    check(KernelMap.of(neighbours(keys_of(150), size), DEVICE), inputs, outputs, dtype)


@pytest.mark.parametrize("size", [2, 3])
def test_a_strided_convolution_and_the_way_back_equal_torch(size: int) -> None:
    kernel_map = KernelMap.of(coarser(keys_of(150), size, 2)[1], DEVICE)
    check(kernel_map, 16, 24, torch.float32)
    check(kernel_map.turned, 24, 16, torch.float32)


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_a_block_may_end_before_at_or_after_the_last_row(more: int) -> None:
    check(KernelMap.of(neighbours(keys_of(2 * kernel.ROWS + more), 3), DEVICE), 4, 8, torch.float32)


def test_offsets_that_no_row_has_are_nothing() -> None:
    apart = np.arange(70)[:, None] * [10, 0, 0, 0]
    check(KernelMap.of(neighbours(sort_keys(pack(apart))[0], 3), DEVICE), 4, 8, torch.float32)
    none = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    check(KernelMap.of(neighbours(keys_of(1), 3), DEVICE), 4, 8, torch.float32)  # row 0 is a row, not none
    unseen = KernelMap(none, none, (0, 0, 0), 3, 5)  # no output sees an input
    check(unseen, 4, 8, torch.float32)
    nobody = KernelMap(none, none, (0, 0, 0), 3, 0)
    assert kernel.by_triton(rows(3, 4), rows(2, 4, 8), nobody, None, None, relu=False).shape == (0, 8)


def test_a_view_of_other_strides_is_read_rightly() -> None:
    kernel_map = KernelMap.of(neighbours(keys_of(80), 3), DEVICE)
    x, weight = rows(6, 80).t(), rows(27, 10, 6).transpose(1, 2)
    want = convolve(x.double(), weight.double(), kernel_map)
    assert (kernel.by_triton(x, weight, kernel_map, None, None, relu=False) - want).abs().max() < 1e-4


def test_nan_is_not_made_zero() -> None:
    kernel_map = KernelMap.of(neighbours(keys_of(10), 1), DEVICE)
    x = rows(10, 4)
    x[3, 0] = torch.nan
    out = kernel.by_triton(x, rows(1, 4, 8), kernel_map, None, None, relu=True)
    assert out[3].isnan().all() and out[4:].isfinite().all()


def test_gradients_through_the_kernel_equal_those_of_torch() -> None:
    kernel_map = KernelMap.of(coarser(keys_of(60))[1], DEVICE)
    leaves = [rows(60, 5).requires_grad_(), rows(8, 5, 7, seed=1).requires_grad_(), rows(7, seed=2).requires_grad_()]
    found = {}
    for name in ("triton", "torch"):
        with sparse_backend(name):
            out = convolve(leaves[0], leaves[1], kernel_map, bias=leaves[2], relu=True)
        found[name] = torch.autograd.grad(
            out.square().sum(), leaves
        )  # outside the `with`: it counts for the way back too
    for ours, plain in zip(found["triton"], found["torch"], strict=True):
        assert (ours - plain).abs().max() <= 1e-4 * plain.abs().max()


def test_double_precision_is_refused_where_triton_is_asked_for() -> None:
    kernel_map = KernelMap.of(neighbours(keys_of(10), 1), DEVICE)
    with sparse_backend("triton"), pytest.raises(DTypeError, match="float16, bfloat16 and float32"):
        convolve(rows(10, 4).double(), rows(1, 4, 8).double(), kernel_map)


@pytest.mark.parametrize("fault", ["fails", "is wrong"])
def test_where_the_kernel_does_not_work_torch_convolves_and_the_log_says_so(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def by_triton(x: Tensor, *_: object, **__: object) -> Tensor:
        if fault == "fails":
            raise RuntimeError("no C compiler")
        return torch.zeros_like(x)

    monkeypatch.setattr(kernel, "by_triton", by_triton)
    kernel.works.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not kernel.works(torch.device(DEVICE), torch.float32)
        with sparse_backend("triton"), pytest.raises(InputError, match="hint: it needs a GPU"):
            sparse_backends.carrier_for(rows(1, 16))
    kernel.works.cache_clear()
    assert "without Triton" in caplog.text and (fault != "fails" or "no C compiler" in caplog.text)


def test_golden_layers_come_out_of_the_kernel(shared: Path) -> None:
    folder = shared / "golden" / "sparse"
    shapes = json.loads((folder / "layers_2000.keys.json").read_text("utf-8"))
    weights = runpy.run_path(str(folder / "recipe.py"))["make_state"](shapes)
    with np.load(folder / "layers_2000.npz", allow_pickle=False) as file:
        want = dict(file)
    keys, place = sort_keys(pack(np.column_stack([want["coords"], np.zeros(2000, np.int16)])))
    above, pairs = coarser(keys)
    near, down, wide = (KernelMap.of(made, DEVICE) for made in (neighbours(keys), pairs, neighbours(above)))
    x = torch.zeros(2000, 4).index_copy(0, torch.from_numpy(place), torch.from_numpy(want["feats"])).to(DEVICE)
    found = {}
    for name, kernel_map in (("conv3", near), ("down", down), ("conv3b", wide), ("up", down.turned)):
        weight = torch.from_numpy(weights[f"{name}.kernel"]).to(DEVICE)
        x = kernel.by_triton(x, weight, kernel_map, None, None, relu=False)
        found[name] = x.cpu().numpy()
    for name, order in (("conv3", place), ("down", slice(None)), ("conv3b", slice(None)), ("up", place)):
        assert np.abs(found[name][order] - want[name]).max() <= 1e-5 * np.abs(want[name]).max(), name


TRANSLATE = """
import sys, torch
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from effvision.ops import sparse_triton as ours
# what Triton makes constants of: absent arrays, and sizes of 1
BARE = {"bias": None, "residual": None, "outputs": 1, "channels_in": 1, "channels_out": 1, "volume": 1, "RELU": False}
for dtype, letters in ((torch.float32, "fp32"), (torch.float16, "fp16"), (torch.bfloat16, "bf16")):
    for channels, more in ((256, {}), (1, BARE)):
        fixed = ours.block_sizes(channels, channels, dtype) | {"RELU": True, "PRECISION": "ieee", "WIDE": False} | more
        kinds = dict.fromkeys(("x", "weight", "bias", "residual", "out"), "*" + letters) | {"table": "*i32"}
        signature = {name: "constexpr" if name in fixed else kinds.get(name, "i32") for name in ours._kernel.arg_names}
        source = ASTSource(ours._kernel, signature, fixed)
        made = compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32), options={"enable_fp_fusion": True})
        assert len(made.asm["cubin"]) > 1000
        assert ("mma" in made.asm["ptx"]) == (dtype != torch.float32), dtype  # tensor cores
"""


@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernel_is_translated_for_a_gpu_that_is_not_there(capability: int, tmp_path: Path) -> None:
    # the interpreter takes much that the compiler refuses
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TRITON_INTERPRET", raising=False)
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        command = [sys.executable, "-c", TRANSLATE, str(capability)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
