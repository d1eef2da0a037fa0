"""Both whole networks on a real scan of 94,625 voxels, against the authors' code."""

from __future__ import annotations

import importlib.util
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from effvision.models.minkunet.convert import from_reference
from effvision.models.minkunet.network import SparseUNet
from effvision.ops.folding import fuse

NETWORKS = ("minkunet", "spvcnn")


@pytest.fixture(scope="module")
def scan(shared: Path) -> tuple[Tensor, Tensor]:
    """The scan's voxels of 5 cm (V, 4) int32 and the first point of each (V, 4): x, y, z, remission."""
    points = np.fromfile(shared / "data" / "semantickitti" / "000000.bin", np.float32).reshape(-1, 4)
    cells = np.round(points[:, :3] / np.float32(0.05)).astype(np.int32)
    voxels, first = np.unique(cells - cells.min(0), axis=0, return_index=True)
    coords = np.column_stack([voxels, np.zeros(len(voxels), np.int32)]).astype(np.int32)
    return torch.from_numpy(coords), torch.from_numpy(points[first])


def network(shared: Path, name: str) -> SparseUNet:
    folder = shared / "golden" / "sparse"
    spec = importlib.util.spec_from_file_location("sparse_recipe", folder / "recipe.py")
    assert spec is not None and spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    made = recipe.make_state(json.loads((folder / f"{name}_cr0p5.keys.json").read_text("utf-8")))
    state = {key: torch.from_numpy(np.asarray(value)) for key, value in made.items()}
    return from_reference(state, network=name, width=0.5)


def assert_golden(logits: Tensor, shared: Path, name: str) -> None:
    with np.load(shared / "golden" / "sparse" / f"{name}_cr0p5.npz") as stored:
        golden = dict(stored)
    found = logits.double().numpy()
    assert (found.argmax(1) == golden["argmax"]).mean() >= 0.999
    difference = np.abs(found[golden["rows"]] - golden["row_values"])
    assert (difference <= 1e-4 * golden["std"]).all()
    for statistic in ("mean", "std", "min", "max"):
        off = np.abs(getattr(found, statistic)(axis=0) - golden[statistic])
        assert (off <= 1e-3 * golden["std"]).all(), statistic


def test_golden_scan_has_the_reference_voxels(shared: Path, scan: tuple[Tensor, Tensor]) -> None:
    coords, feats = (value.numpy() for value in scan)
    with np.load(shared / "golden" / "sparse" / "minkunet_cr0p5.npz") as golden:
        assert len(coords) == golden["num_voxels"]
        assert zlib.crc32(np.ascontiguousarray(coords[:, :3]).tobytes()) == golden["coords_crc"]
        assert zlib.crc32(feats.tobytes()) == golden["feats_crc"]


@pytest.mark.parametrize("name", NETWORKS)
def test_golden_scan_gives_the_reference_logits(shared: Path, scan: tuple[Tensor, Tensor], name: str) -> None:
    with torch.inference_mode():
        assert_golden(network(shared, name)(*scan), shared, name)


@pytest.mark.parametrize("name", NETWORKS)
def test_golden_scan_in_any_order_gives_the_same_with_norms_folded(
    shared: Path, scan: tuple[Tensor, Tensor], name: str
) -> None:
    order = torch.randperm(len(scan[0]), generator=torch.Generator().manual_seed(0))
    fused = fuse(network(shared, name))
    with torch.inference_mode():
        logits = fused(scan[0][order], scan[1][order])
    back = torch.empty_like(logits)
    back[order] = logits
    assert_golden(back, shared, name)
