"""Back ends of sparse convolutions: how one is chosen, weights of spconv, and spconv itself where it is installed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import runpy
import sys
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from effvision.errors import DTypeError, InputError, MissingDependencyError, ShapeError
from effvision.host.sparse import coarser, neighbours, pack, sort_keys, unpack
from effvision.models.minkunet.network import SPVCNN, MinkUNet
from effvision.ops.sparse_backends import carrier_for, from_spconv_weight, sparse_backend, to_spconv_weight
from effvision.ops.sparse_conv import KernelMap, convolve

needs_spconv = pytest.mark.skipif(
    importlib.util.find_spec("spconv") is None, reason="no spconv here: see CONTRIBUTING.md, Tests"
)
KERNELS: list[Any] = [1, 2, 3, 5, (1, 3, 5), (3, 1, 2)]


def keys_of(seed: int, *, side: int = 7, share: float = 0.3, low: int = 0) -> np.ndarray:
    """Voxels of two clouds, the first of them at `low`, which may be negative."""
    there = np.random.default_rng(seed).random((2, side, side, side)) < share
    batch, x, y, z = there.nonzero()
    return sort_keys(pack(np.stack([x + low, y + low, z + low, batch], axis=1)))[0]


def rows(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def volume(kernel: Any) -> int:
    return int(np.prod(kernel)) if isinstance(kernel, tuple) else kernel**3


# -- choosing --------------------------------------------------------------------------------------------------------------


def test_unasked_a_cpu_goes_without_any_back_end() -> None:
    assert carrier_for(rows(0, 1, 1)) is None


def test_another_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match="auto, torch, triton, spconv; got 'cudnn'"), sparse_backend("cudnn"):
        pass


@pytest.mark.parametrize("name", ["triton", "spconv"])
def test_a_back_end_that_is_not_installed_is_an_error_with_the_line_that_installs_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [one for one in sys.modules if one.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    hint = f"hint: (pip install|reinstall it with pip install) {name}"
    with pytest.raises(MissingDependencyError, match=hint), sparse_backend(name):
        pass


def test_a_choice_ends_with_its_block_and_stays_in_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effvision.ops.sparse_backends.require", lambda *_, **__: None)
    seen: list[object] = []
    with contextlib.suppress(RuntimeError), sparse_backend("spconv"):
        assert carrier_for(rows(0, 1, 1)) is not None
        beside = threading.Thread(target=lambda: seen.append(carrier_for(rows(0, 1, 1))))
        beside.start()
        beside.join()
        with sparse_backend("torch"):
            assert carrier_for(rows(0, 1, 1)) is None
        assert carrier_for(rows(0, 1, 1)) is not None
        raise RuntimeError
    assert carrier_for(rows(0, 1, 1)) is None and seen == [None]


@pytest.mark.parametrize(
    ("triton", "works", "dtype", "taken"),
    [
        (True, True, torch.float16, True),
        (True, False, torch.float16, False),
        (True, True, torch.float64, False),
        (False, True, torch.float16, False),
    ],
)
def test_unasked_a_gpu_takes_triton_where_it_is_there_and_works_for_the_dtype(
    triton: bool, works: bool, dtype: torch.dtype, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = SimpleNamespace(DTYPES=(torch.float16,), works=lambda device, dtype: works, by_triton=object())
    monkeypatch.setattr("effvision.ops.sparse_backends._triton_module", lambda: kernel if triton else None)
    on_gpu: Any = SimpleNamespace(device=torch.device("cuda", 0), dtype=dtype)
    assert carrier_for(on_gpu) is (kernel.by_triton if taken else None)
    with sparse_backend("torch"):
        assert carrier_for(on_gpu) is None


def test_double_precision_is_refused_by_spconv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effvision.ops.sparse_backends.require", lambda *_, **__: None)
    with sparse_backend("spconv"), pytest.raises(DTypeError, match="float64"):
        carrier_for(rows(0, 1, 1).double())


# -- weights of spconv -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_a_weight_of_spconv_is_that_of_a_dense_convolution(kernel: Any) -> None:
    # spconv's (C_out, X, Y, Z, C_in) has the axes of torch's conv3d, channels last
    keys = keys_of(0, side=5)
    kernel_map = KernelMap.of(neighbours(keys, kernel))
    x, weight = rows(1, len(keys), 3), rows(2, volume(kernel), 3, 4)
    coords = torch.from_numpy(unpack(keys)).long()
    places, b = coords[:, :3] + 5, coords[:, 3]
    grid = torch.zeros(2, 15, 15, 15, 3).index_put((b, *places.unbind(1)), x).movedim(-1, 1)
    dense = F.conv3d(grid, to_spconv_weight(weight, kernel).permute(0, 4, 1, 2, 3))
    sizes = kernel if isinstance(kernel, tuple) else (kernel,) * 3
    first = [size // 2 if size % 2 else 0 for size in sizes]
    want = dense[b, :, places[:, 0] - first[0], places[:, 1] - first[1], places[:, 2] - first[2]]
    assert (convolve(x, weight, kernel_map) - want).abs().max() < 1e-5


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_a_weight_goes_to_spconv_and_back(kernel: Any) -> None:
    weight = rows(0, volume(kernel), 3, 4)
    assert torch.equal(from_spconv_weight(to_spconv_weight(weight, kernel)), weight)


def test_a_weight_of_size_one_may_have_two_axes() -> None:
    weight = rows(0, 3, 4)
    assert torch.equal(to_spconv_weight(weight, 1)[:, 0, 0, 0], weight.t())


def test_weights_of_another_shape_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(27, C_in, C_out\).*\(8, 3, 4\)"):
        to_spconv_weight(rows(0, 8, 3, 4), 3)
    with pytest.raises(ShapeError, match=r"\(C_out, X, Y, Z, C_in\)"):
        from_spconv_weight(rows(0, 27, 3, 4))


# -- spconv ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spconv() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it imports calls parts of Python that are on their way out
        return importlib.import_module("spconv.pytorch")


def maps() -> list[tuple[str, KernelMap]]:
    """Submanifold, strided, and the way back."""
    keys = keys_of(3, low=-3)
    found = [(f"near {kernel}", KernelMap.of(neighbours(keys, kernel))) for kernel in KERNELS]
    for kernel, stride in ((2, 2), (3, 2), (2, 1)):
        kernel_map = KernelMap.of(coarser(keys, kernel, stride)[1])
        found += [(f"down {kernel} {stride}", kernel_map), (f"up {kernel} {stride}", kernel_map.turned)]
    none = torch.zeros(0, dtype=torch.int64)
    return [*found, ("no pair", KernelMap(none, none, (0, 0, 0), 3, 5))]


@needs_spconv
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("name", "kernel_map"), maps(), ids=[name for name, _ in maps()])
def test_spconv_convolves_over_our_maps_as_torch_does(
    spconv: Any, name: str, kernel_map: KernelMap, dtype: torch.dtype
) -> None:
    x, weight = rows(1, kernel_map.inputs, 5, dtype=dtype), rows(2, kernel_map.kernel_volume, 5, 6, dtype=dtype)
    bias, residual = rows(3, 6, dtype=dtype), rows(4, kernel_map.outputs, 6, dtype=dtype)
    want = convolve(x.double(), weight.double(), kernel_map, bias=bias.double(), residual=residual.double(), relu=True)
    with sparse_backend("spconv"):
        got = convolve(x, weight, kernel_map, bias=bias, residual=residual, relu=True)
    assert got.dtype == dtype
    assert (got - want).abs().max() <= (1e-6 if dtype == torch.float32 else 1e-3) * want.abs().max()


@needs_spconv
def test_gradients_through_spconv_equal_those_of_torch(spconv: Any) -> None:
    kernel_map = KernelMap.of(neighbours(keys_of(4)))
    leaves = [rows(1, kernel_map.inputs, 4).requires_grad_(), rows(2, 27, 4, 5).requires_grad_()]
    found = {}
    for name in ("spconv", "torch"):
        with sparse_backend(name):
            found[name] = torch.autograd.grad(convolve(*leaves, kernel_map).square().sum(), leaves)
    for theirs, plain in zip(found["spconv"], found["torch"], strict=True):
        assert (theirs - plain).abs().max() <= 1e-5 * plain.abs().max()


@needs_spconv
@pytest.mark.parametrize("family", [MinkUNet, SPVCNN])
def test_a_whole_network_on_spconv_equals_itself_on_torch(spconv: Any, family: Any) -> None:
    torch.manual_seed(0)
    network = family(width=0.25).eval()
    coords = torch.from_numpy(unpack(keys_of(5, side=12, low=-6)))
    feats = rows(1, len(coords), 4)
    with torch.no_grad():
        want = network(coords, feats)
        with sparse_backend("spconv"):
            got = network(coords, feats)
    assert (got - want).abs().max() <= 1e-5 * want.std()


def their_layers(spconv: Any, weights: dict[str, Tensor]) -> dict[str, Any]:
    """The layers of the golden file as spconv has them, with our weights."""
    subm, down, up = spconv.SubMConv3d, spconv.SparseConv3d, spconv.SparseInverseConv3d
    made = {
        "conv3": subm(4, 16, 3, bias=False, indice_key="fine"),
        "down": down(16, 24, 2, stride=2, bias=False, indice_key="halved"),
        "conv3b": subm(24, 24, 3, bias=False, indice_key="coarse"),
        "up": up(24, 16, 2, bias=False, indice_key="halved"),
    }
    for name, layer in made.items():
        size = 2 if name in ("down", "up") else 3
        layer.weight = torch.nn.Parameter(to_spconv_weight(weights[name], size))
    return made


def through(layers: dict[str, Any], spconv: Any, coords: np.ndarray, feats: Tensor) -> dict[str, tuple[Any, Any]]:
    """Coordinates (V, 4) x, y, z, batch and features after each of spconv's layers."""
    indices = torch.from_numpy(np.ascontiguousarray(coords[:, [3, 0, 1, 2]], dtype=np.int32))
    shape = [int(size) for size in coords[:, :3].max(axis=0) + 2]
    x = spconv.SparseConvTensor(feats, indices, shape, int(coords[:, 3].max()) + 1)
    found = {}
    with torch.no_grad():
        for name, layer in layers.items():
            x = layer(x)
            found[name] = (x.indices.numpy()[:, [1, 2, 3, 0]], x.features.numpy())
    return found


def in_order(coords: np.ndarray, values: np.ndarray) -> np.ndarray:
    return values[np.argsort(pack(coords.astype(np.int64)))]


@needs_spconv
@pytest.mark.parametrize("seed", [0, 1])
def test_layers_of_spconv_with_our_weights_give_our_numbers(spconv: Any, seed: int) -> None:
    keys = keys_of(seed)
    weights = {"conv3": rows(1, 27, 4, 16), "down": rows(2, 8, 16, 24), "conv3b": rows(3, 27, 24, 24) / 8}
    weights["up"] = rows(4, 8, 24, 16)
    above, pairs = coarser(keys)
    down = KernelMap.of(pairs)
    used = {"conv3": KernelMap.of(neighbours(keys)), "down": down, "conv3b": KernelMap.of(neighbours(above))}
    used["up"] = down.turned
    feats = rows(seed, len(keys), 4)
    theirs = through(their_layers(spconv, weights), spconv, unpack(keys), feats)
    x = feats
    for name, kernel_map in used.items():
        x = convolve(x, weights[name], kernel_map)
        coords, values = theirs[name]
        assert np.array_equal(np.sort(pack(coords.astype(np.int64))), above if name in ("down", "conv3b") else keys)
        assert np.abs(in_order(coords, values) - x.numpy()).max() <= 1e-5 * x.abs().max(), name


@needs_spconv
@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (5, 2)])
def test_an_odd_kernel_with_a_stride_takes_half_its_size_as_padding_in_spconv(
    spconv: Any, kernel: int, padding: int
) -> None:
    keys, weight = keys_of(2), rows(1, kernel**3, 3, 4)
    layer = spconv.SparseConv3d(3, 4, kernel, stride=2, padding=padding, bias=False)
    layer.weight = torch.nn.Parameter(to_spconv_weight(weight, kernel))
    feats = rows(0, len(keys), 3)
    coords, values = through({"down": layer}, spconv, unpack(keys), feats)["down"]
    above, pairs = coarser(keys, kernel, 2)
    ours = convolve(feats, weight, KernelMap.of(pairs)).numpy()
    theirs = pack(coords.astype(np.int64))
    inside = np.isin(above, theirs)  # spconv's grid ends where the inputs do; ours has outputs wherever a tap reaches
    assert inside.sum() == len(theirs)
    assert np.abs(in_order(coords, values) - ours[inside]).max() <= 1e-5 * np.abs(ours).max()


@needs_spconv
def test_golden_layers_come_out_of_spconv_over_our_maps_and_of_its_own_layers(spconv: Any, shared: Path) -> None:
    folder = shared / "golden" / "sparse"
    shapes = json.loads((folder / "layers_2000.keys.json").read_text("utf-8"))
    made = runpy.run_path(str(folder / "recipe.py"))["make_state"](shapes)
    weights = {name.removesuffix(".kernel"): torch.from_numpy(value) for name, value in made.items()}
    with np.load(folder / "layers_2000.npz", allow_pickle=False) as file:
        want = dict(file)
    given = np.column_stack([want["coords"], np.zeros(2000, np.int16)]).astype(np.int64)
    keys, place = sort_keys(pack(given))
    feats = torch.zeros(2000, 4).index_copy(0, torch.from_numpy(place), torch.from_numpy(want["feats"]))
    above, pairs = coarser(keys)
    down = KernelMap.of(pairs)
    used = {"conv3": KernelMap.of(neighbours(keys)), "down": down, "conv3b": KernelMap.of(neighbours(above))}
    used["up"] = down.turned
    theirs = through(their_layers(spconv, weights), spconv, unpack(keys), feats)
    x = feats
    for name, kernel_map in used.items():
        with sparse_backend("spconv"):
            x = convolve(x, weights[name], kernel_map)
        rows_of = place if name in ("conv3", "up") else slice(None)
        for found in (x.numpy(), in_order(*theirs[name])):
            assert np.abs(found[rows_of] - want[name]).max() <= 1e-5 * np.abs(want[name]).max(), name
