"""A model of several graphs: one file each, one description in all of them, opened together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from effvision.errors import ExportError, ModelFileError
from effvision.export import export_onnx
from effvision.export.half import make_half
from effvision.metadata import GraphSpec, Metadata, StateSpec, TensorSpec
from effvision.runtime.onnx import OnnxRuntime
from effvision.runtime.torch import TorchRuntime


class Template(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, picture: Tensor) -> Tensor:
        return picture.mean(dim=(2, 3)) * self.scale


class Search(nn.Module):
    """Has a state, and an axis of any length besides the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 4)

    def forward(self, points: Tensor, *states: Tensor) -> tuple[Tensor, Tensor]:
        found = self.mix(points) + 0.25 * states[0][:, None]
        return found.transpose(1, 2), states[0] * 0.5 + found.mean(dim=1)


GRAPHS = {
    "template": GraphSpec(
        "template",
        (TensorSpec("picture", ("batch", 3, 8, 8)),),
        (TensorSpec("filter", ("batch", 3)),),
    ),
    "search": GraphSpec(
        "search",
        (TensorSpec("points", ("batch", "points", 3)),),
        (TensorSpec("scores", ("batch", 4, "points")),),
        (StateSpec("kept", "kept_in", "kept_out", (4,)),),
    ),
}
METADATA = Metadata("tsm", "", "matching", ("a", "b"), GRAPHS, {}, {}, weights_sha256="0" * 64)


def examples(graph: str, *, steps: int, batch: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    for step in range(steps):
        if graph == "template":
            yield {"picture": rng.standard_normal((batch, 3, 8, 8)).astype(np.float32)}
        else:
            yield {"points": rng.standard_normal((batch, 5 + step, 3)).astype(np.float32)}


def runtime(seed: int = 0) -> TorchRuntime:
    torch.manual_seed(seed)
    return TorchRuntime({"template": Template(), "search": Search()}, GRAPHS)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return export_onnx(runtime(), METADATA, examples, tmp_path_factory.mktemp("parts") / "m.onnx", batch="dynamic")


def test_each_graph_is_a_file_with_the_whole_description(written: Any) -> None:
    assert Path(written).name == "m.onnx" and [part.path.name for part in written.parts] == ["m-template.onnx"]
    blocks = []
    for path, graph in ((written.path, "search"), (written.parts[0].path, "template")):
        said = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        assert said["effvision.graph"] == graph
        blocks.append(json.loads(said["effvision"])["graphs"])
    assert blocks[0] == blocks[1] and set(blocks[0]) == {"template", "search"}
    assert "m-template.onnx" in str(written)
    assert [part["path"] for part in json.loads(json.dumps(written.to_dict()))["parts"]] == [str(written.parts[0].path)]


def test_opened_together_they_equal_pytorch_state_and_lengths_never_seen_included(written: Any) -> None:
    exported, metadata = OnnxRuntime.load(written)
    assert list(metadata.graphs) == ["search", "template"]
    wanted = runtime()
    states = [one.initial_state(3, graph="search") for one in (wanted, exported)]
    for inputs in examples("search", steps=20, batch=3, seed=5):
        first, states[0] = wanted.step(inputs, states[0], graph="search")
        second, states[1] = exported.step(inputs, states[1], graph="search")
        np.testing.assert_allclose(second["scores"], first["scores"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(states[1].numpy()["kept"], states[0].numpy()["kept"], rtol=1e-5)
    picture = next(examples("template", steps=1, batch=2, seed=1))
    np.testing.assert_allclose(
        exported.run("template", picture)["filter"], wanted.run("template", picture)["filter"], atol=1e-6
    )
    assert exported.multiply_adds("template", 1) == 0


def test_a_part_alone_a_missing_one_and_one_of_another_model_are_refused(written: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"only the part `template`.*\n.*hint: open the file that holds `search`"):
        OnnxRuntime.load(written.parts[0])
    alone = tmp_path / "m.onnx"
    alone.write_bytes(Path(written).read_bytes())
    with pytest.raises(ModelFileError, match=r"m-template\.onnx beside it is missing"):
        OnnxRuntime.load(alone)
    other = Metadata("tsm", "", "matching", ("a", "b"), GRAPHS, {}, {}, weights_sha256="1" * 64)
    foreign = export_onnx(runtime(1), other, examples, tmp_path / "other.onnx", batch="dynamic")
    (tmp_path / "m-template.onnx").write_bytes(foreign.parts[0].path.read_bytes())
    with pytest.raises(ModelFileError, match="a part of another export"):
        OnnxRuntime.load(alone)


def test_a_part_of_another_precision_of_the_same_weights_is_refused(written: Any, tmp_path: Path) -> None:
    def halve(model: Any, spec: GraphSpec) -> Any:
        return make_half(model, spec, examples, judged=False)

    half = export_onnx(runtime(), METADATA, examples, tmp_path / "m.onnx", batch="dynamic", convert=halve)
    OnnxRuntime.load(half)
    half.parts[0].path.write_bytes(written.parts[0].path.read_bytes())
    with pytest.raises(ModelFileError, match="a part of another export"):
        OnnxRuntime.load(half)


@pytest.mark.parametrize("name", ["../../x", "a/b", "", "C:x", "x" * 65])
def test_a_graph_whose_name_is_no_part_of_a_files_name_is_refused(name: str) -> None:
    block = json.loads(METADATA.to_json())
    block["graphs"][name] = block["graphs"].pop("search")
    with pytest.raises(ModelFileError, match="no graph's name"):
        Metadata.from_json(json.dumps(block), where="m.onnx")


def test_nothing_is_written_if_the_last_graph_fails(tmp_path: Path) -> None:
    class Drifting(Template):
        def forward(self, picture: Tensor) -> Tensor:
            return super().forward(picture) + (0.0 if torch.compiler.is_exporting() else 0.1)

    broken = TorchRuntime({"template": Drifting(), "search": Search()}, GRAPHS)
    with pytest.raises(ExportError, match="differs from PyTorch"):
        export_onnx(broken, METADATA, examples, tmp_path / "m.onnx", batch="dynamic")
    assert list(tmp_path.iterdir()) == []
