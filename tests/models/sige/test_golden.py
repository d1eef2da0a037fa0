"""SPADE blocks against what the published engine computes in full (golden)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from effvision.models.sige.network import SpadeBlock  # noqa: E402


def recipe_of(folder: Path) -> Any:
    """The program that makes weights and inputs again."""
    spec = importlib.util.spec_from_file_location("sige_recipe", folder / "recipe.py")
    assert spec is not None and spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    return recipe


@pytest.mark.parametrize("case", ["spade_12_8", "spade_8_8"])
@torch.inference_mode()
def test_golden_spade_blocks_have_these_keys_and_these_answers(shared: Path, case: str) -> None:
    folder = shared / "golden" / "sige"
    recipe, described = recipe_of(folder), json.loads((folder / "keys.json").read_text("utf-8"))
    meta, shapes = described["meta"][case], described["keys"][case]
    block = SpadeBlock(meta["fin"], meta["fout"], meta["semantic_nc"], 2 * meta["ngf"]).eval()
    own = {key: list(value.shape) for key, value in block.state_dict().items() if "num_batches" not in key}
    assert own == shapes
    weights = {key: torch.from_numpy(recipe.weight(f"{case}/{key}", shape)) for key, shape in shapes.items()}
    block.load_state_dict(weights, strict=False)

    size = meta["h"], meta["w"]
    labels = recipe.labels(f"input:{case}:labels", size, meta["semantic_nc"])
    x, delta = (recipe.array(f"input:{case}:{name}", (1, meta["fin"], *size)) for name in ("x", "delta"))
    with np.load(folder / "blocks.npz", allow_pickle=False) as stored:
        golden = {key: stored[key] for key in stored.files if key.startswith(case)}

    def answer(map_of_x: np.ndarray, map_of_labels: np.ndarray) -> np.ndarray:
        one_hot = torch.from_numpy(recipe.one_hot(map_of_labels, meta["semantic_nc"]))
        return block(torch.from_numpy(map_of_x), one_hot).numpy()  # type: ignore[no-any-return]

    np.testing.assert_allclose(answer(x, labels), golden[f"{case}|full_original"], atol=2e-5, rtol=1e-5)
    for kind in ("rect", "two", "topleft", "border"):
        mask = recipe.mask(kind, *size)
        edited = np.where(mask, (labels + 1) % meta["semantic_nc"], labels)
        np.testing.assert_allclose(
            answer(x + delta * mask, edited), golden[f"{case}|{kind}|full_edited"], atol=2e-5, rtol=1e-5
        )
