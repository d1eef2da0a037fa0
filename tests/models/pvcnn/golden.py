"""Finds the authors' golden vectors and the recipe that makes their weights from names."""

from __future__ import annotations

import importlib.util
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

__all__ = ["CASES", "Case", "inputs", "load", "randomise", "weights"]


class Case(NamedTuple):
    """A golden network: the arguments of `from_reference`, and the names of its inputs."""

    variant: str
    width: float
    inputs: tuple[str, ...] = ("input",)


CASES = {
    "s3dis_pvcnn_c0p125": Case("s3dis", 0.125),
    "s3dis_pvcnn_c0p25": Case("s3dis", 0.25),
    "shapenet_pvcnn_c0p25": Case("shapenet", 0.25),
    "s3dis_pvcnn2_c0p5": Case("s3dis++", 0.5),
    "kitti_frustum_pvcnne_seg": Case("kitti-frustum-seg", 1.0, ("input", "one_hot")),
    "kitti_frustum_pvcnne_box": Case("kitti-frustum-box", 1.0, ("coords", "one_hot")),
}


@lru_cache(maxsize=1)
def _recipe(shared: Path) -> Any:
    spec = importlib.util.spec_from_file_location("golden_pvcnn_recipe", shared / "golden/pvcnn/recipe.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def weights(shared: Path, name: str) -> dict[str, np.ndarray]:
    keys = json.loads((shared / f"golden/pvcnn/{name}.keys.json").read_text("utf-8"))
    return _recipe(shared).make_state(keys)  # type: ignore[no-any-return]


def load(shared: Path, name: str) -> Any:
    return np.load(shared / f"golden/pvcnn/{name}.npz", allow_pickle=False)


def inputs(shared: Path, name: str) -> list[torch.Tensor]:
    stored = load(shared, name)
    return [torch.from_numpy(stored[key]) for key in CASES[name].inputs]


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Fill a network with weights whose outputs are of order one, and normalisations that do something; eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm3d)):
            module.weight.data.uniform_(0.8, 1.2, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)
            module.get_buffer("running_mean").normal_(0, 0.2, generator=generator)
            module.get_buffer("running_var").uniform_(0.5, 1.5, generator=generator)
        elif isinstance(weight, nn.Parameter):
            weight.data.normal_(0, (2 / weight[0].numel()) ** 0.5, generator=generator)
            if getattr(module, "bias", None) is not None:
                module.bias.data.normal_(0, 0.2, generator=generator)
    return network.eval()
