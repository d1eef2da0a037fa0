"""Finds the authors' golden vectors and the recipe that makes their weights and inputs from names."""

from __future__ import annotations

import importlib.util
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["clips", "load", "recipe", "weights"]


@lru_cache(maxsize=1)
def recipe(shared: Path) -> Any:
    spec = importlib.util.spec_from_file_location("golden_tsm_recipe", shared / "golden/tsm/recipe.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@lru_cache(maxsize=1)
def _keys(shared: Path) -> dict[str, dict[str, list[int]]]:
    return json.loads((shared / "golden/tsm/state_dict_keys.json").read_text())  # type: ignore[no-any-return]


def weights(shared: Path, name: str) -> dict[str, np.ndarray]:
    gain = 2.0 if "mbv2" in name else 1.0
    return recipe(shared).state(_keys(shared)[name], gain)  # type: ignore[no-any-return]


def clips(shared: Path, count: int, frames: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([recipe(shared).clip(f"clip{n}", frames) for n in range(count)]))


def load(shared: Path, name: str) -> Any:
    return np.load(shared / "golden/tsm" / name)
