"""Exported files: what is inside, that they repeat byte for byte, and that a failed check leaves nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from effvision import TSM
from effvision.errors import ExportError, InputError, ShapeError, SourceError
from effvision.export import export_onnx
from effvision.export.opset import to_opset
from effvision.metadata import GraphSpec, Metadata, TensorSpec
from effvision.models.tsm.network import build, randomise
from effvision.runtime.torch import TorchRuntime
from kits import small_model


def model(seed: int = 0) -> TSM:
    torch.manual_seed(seed)
    network = randomise(build(4, backbone="mobilenetv2", width=0.25, shift="causal")).eval()
    return TSM.from_network(network, labels="abcd", size=(32, 32), fps=10.0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return model().export(tmp_path_factory.mktemp("export") / "m.onnx", batch="dynamic")


def test_the_file_says_all_that_is_needed_and_nothing_about_this_machine(exported: Any) -> None:
    graph = onnx.load(exported)
    assert {entry.domain: entry.version for entry in graph.opset_import} == {"": 17}
    assert graph.ir_version == 8 and not graph.functions
    sites = len(model().metadata.graphs["step"].states)
    assert [value.name for value in graph.graph.input] == ["frame", *(f"state_in_{i}" for i in range(sites))]
    assert [value.name for value in graph.graph.output] == ["logits", *(f"state_out_{i}" for i in range(sites))]
    assert all(value.type.tensor_type.shape.dim[0].dim_param == "batch" for value in graph.graph.input)
    data = Path(exported).read_bytes()
    for leak in (b"/", b".py", b"File ", b"stack_trace", str(Path.cwd()).encode()):
        found = [n for n in (*graph.graph.node, *graph.graph.initializer) if leak in n.name.encode()]
        assert not found
    for leak in (b"stack_trace", b"effvision/models", b"site-packages", str(Path.cwd()).encode()):
        assert leak not in data
    block = json.loads({entry.key: entry.value for entry in graph.metadata_props}["effvision"])
    assert block["family"] == "tsm" and block["labels"] == list("abcd")
    assert block["check"]["steps"] >= 16 and block["check"]["batches"] == [1, 2, 3]
    assert block["preprocess"]["color"] == "RGB" and block["preprocess"]["range"] == [0, 255]


def test_the_report_is_a_path_and_tells_what_was_measured(exported: Any) -> None:
    assert exported.size == Path(exported).stat().st_size
    assert exported.check["max_abs"] < 1e-3 and exported.opset == 17
    assert "equals PyTorch over 16 steps" in str(exported)
    json.dumps(exported.to_dict())
    weights = sum(p.numel() for p in model().runtime.modules["step"].parameters()) * 4  # type: ignore[attr-defined]
    # names and shapes of 130 nodes weigh 30 kB, as much as 12 % of so small a network; the real ones are in benchmarks/
    assert exported.size <= weights * 1.02 + 60_000


def test_the_same_model_gives_the_same_bytes_in_another_process(exported: Any, tmp_path: Path) -> None:
    script = (
        "import sys; sys.path[:0] = sys.argv[2:]; import test_writer as t\n"
        "print(t.model().export(sys.argv[1], batch='dynamic').sha256)"
    )
    here = Path(__file__).parent
    command = [sys.executable, "-c", script, str(tmp_path / "again.onnx"), str(here), str(here.parent / "kit")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == exported.sha256
    assert done.stderr == ""


def test_an_exported_file_is_the_same_object_with_another_runtime(exported: Any) -> None:
    original, loaded = model(), TSM.from_pretrained(exported)
    assert loaded.runtime.name == "onnx" and loaded.labels == original.labels and loaded.fps == 10.0
    frames = np.random.default_rng(0).integers(0, 256, (20, 40, 50, 3), dtype=np.uint8)
    one, other = original.session(), loaded.session()
    for frame in frames:
        wanted, got = one.update(frame).logits, other.update(frame).logits
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 * float(np.abs(wanted).max()))
    with pytest.raises(InputError, match="copy that file"):
        loaded.export("again.onnx")


def test_it_runs_in_a_process_that_cannot_import_torch(exported: Any) -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np; from effvision import TSM\n"
        "print(TSM.from_pretrained(sys.argv[1]).predict(np.zeros((5, 40, 50, 3), np.uint8)).label)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(Path(exported))], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in set("abcd")


def test_a_suffix_in_capitals_is_the_same_suffix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from effvision.cli import main

    report = small_model().export(tmp_path / "CAMERA.ONNX")
    assert TSM.from_pretrained(tmp_path / "CAMERA.ONNX").runtime.name == "onnx" and report.path.name == "CAMERA.ONNX"
    assert main(["info", str(report.path)]) == 0
    assert "logits" in capsys.readouterr().out
    with pytest.raises(InputError, match="leave `card` out"):
        TSM.from_pretrained(report, card="tsm-mobilenetv2-motion")


def test_a_fixed_batch_takes_exactly_that_many_streams(tmp_path: Path) -> None:
    report = small_model().export(tmp_path / "two.onnx", batch=2)
    assert report.inputs["frame"] == (2, 3, 32, 32)
    loaded = TSM.from_pretrained(report)
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), dtype=np.uint8)
    assert len(loaded.update_many([loaded.session(), loaded.session()], frames)) == 2
    with pytest.raises(ShapeError, match="exactly 2 streams"):
        loaded.session().update(frames[0])


@pytest.mark.parametrize("opset", [13, 16, 18])
def test_the_opset_asked_for_is_the_one_in_the_file(opset: int, tmp_path: Path) -> None:
    report = model().export(tmp_path / "m.onnx", opset=opset)
    assert onnx.load(report).opset_import[0].version == report.opset == opset


@pytest.mark.parametrize(
    ("path", "options", "error"),
    [
        ("m.pt", {}, InputError),  # another suffix
        ("no/such/folder/m.onnx", {}, SourceError),
        ("m.onnx", {"batch": 0}, InputError),
        ("m.onnx", {"batch": "many"}, InputError),
        ("m.onnx", {"opset": 12}, InputError),
        ("m.onnx", {"opset": 17.0}, InputError),
        ("m.onnx", {"steps": 4}, InputError),  # a short stream hides a lost state
    ],
)
def test_wrong_arguments_are_refused_before_any_work(
    path: str, options: dict[str, Any], error: type, tmp_path: Path
) -> None:
    with pytest.raises(error):
        model().export(tmp_path / path, **options)
    assert list(tmp_path.iterdir()) == []


class Planted(nn.Module):
    """Two features from one input (N, 4, 8), with a part that a trap is planted in."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x * self.weight)  # type: ignore[no-any-return]


def export_planted(
    part: nn.Module, path: Path, *, shape: tuple[int, ...] = (4, 8), out: int = 4, opset: int = 17
) -> Any:
    spec = GraphSpec("step", (TensorSpec("x", ("batch", *shape)),), (TensorSpec("y", ("batch", out)),))
    metadata = Metadata("tsm", "", "test", ("a",), {"step": spec}, {}, {})

    def examples(graph: str, *, steps: int, batch: int, seed: int) -> Any:
        rng = np.random.default_rng(seed)
        for _ in range(steps):
            yield {"x": rng.standard_normal((batch, *shape)).astype(np.float32)}

    return export_onnx(TorchRuntime({"step": Planted(part)}, metadata.graphs), metadata, examples, path, opset=opset)


class ScatterMean(nn.Module):
    """Trap 1: PyTorch's exporter writes this mean as "overwrite", without an error."""

    def forward(self, x: Tensor) -> Tensor:
        index = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]).expand(x.shape[0], 4, 8)
        empty = torch.zeros(x.shape[0], 4, 4)
        return empty.scatter_reduce(2, index, x, "mean", include_self=False).sum(1)


def test_trap_1_a_silently_wrong_operator_is_caught_by_numbers_and_leaves_no_file(tmp_path: Path) -> None:
    old = tmp_path / "m.onnx"
    old.write_bytes(b"the file that was there")
    with pytest.raises(ExportError, match="differs from PyTorch"):
        export_planted(ScatterMean(), old)
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
    assert old.read_bytes() == b"the file that was there"


class Mean(nn.Module):
    """Trap 2: a reduction, which PyTorch's exporter leaves at opset 18 whatever is asked."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(2)


def test_trap_2_pytorch_still_ignores_the_opset_and_our_file_has_it(tmp_path: Path) -> None:
    from effvision.export._quiet import quiet

    with quiet():
        program = torch.onnx.export(
            Planted(Mean()), (torch.zeros(1, 4, 8),), dynamo=True, opset_version=17, verbose=False
        )
    assert program is not None
    if program.model_proto.opset_import[0].version == 17:
        pytest.skip("this PyTorch honours the opset: the rewrite is not needed any more")
    report = export_planted(Mean(), tmp_path / "m.onnx", opset=17)
    graph = onnx.load(report)
    assert graph.opset_import[0].version == 17
    reduce = next(node for node in graph.graph.node if node.op_type == "ReduceMean")
    assert len(reduce.input) == 1 and [a.name for a in reduce.attribute if a.name == "axes"]


class ScatterAdd(nn.Module):
    """Trap 3: right in ONNX Runtime; TensorRT 8 reads it as overwrite."""

    def forward(self, x: Tensor) -> Tensor:
        index = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]).expand(x.shape[0], 4, 8)
        return torch.zeros(x.shape[0], 4, 4).scatter_add(2, index, x).sum(1)


class IndexPut(nn.Module):
    """Trap 3 again: index_put becomes ScatterND, which no TensorRT up to 10.1 adds up."""

    def forward(self, x: Tensor) -> Tensor:
        index = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
        return torch.zeros(x.shape[0], 4, 4).index_add(2, index, x).sum(1)


@pytest.mark.parametrize(("part", "versions"), [(ScatterAdd(), "8.2 to 8.6"), (IndexPut(), "8.2 to 10.1")])
def test_trap_3_a_scatter_that_tensorrt_gets_wrong_is_named_in_report_and_file(
    part: nn.Module, versions: str, tmp_path: Path
) -> None:
    report = export_planted(part, tmp_path / "m.onnx")
    assert any(versions in warning and "in silence" in warning for warning in report.warnings)
    stored = json.loads(onnx.load(report).metadata_props[0].value)
    assert stored["check"]["warnings"] == list(report.warnings)
    assert "warning" in str(report)


class Flat(nn.Module):
    """A Reshape, which PyTorch writes with `allowzero`, new in opset 14."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :4]


def test_a_reshape_to_a_shape_without_zeros_exports_at_every_opset(tmp_path: Path) -> None:
    report = export_planted(Flat(), tmp_path / "m.onnx", opset=13)
    assert "Reshape" in {node.op_type for node in onnx.load(report).graph.node} and report.opset == 13


def test_a_reshape_to_a_shape_with_a_zero_is_refused_where_zero_means_something_else() -> None:
    shape = onnx.numpy_helper.from_array(np.array([0, 4], np.int64), "shape")
    node = onnx.helper.make_node("Reshape", ["x", "shape"], ["y"], allowzero=1)
    tensors = [onnx.helper.make_tensor_value_info(name, 1, None) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", tensors[:1], tensors[1:], [shape])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    with pytest.raises(ExportError, match="Reshape"):
        to_opset(model, 13)


class Halves(nn.Module):
    """A Split, which PyTorch writes with `num_outputs`, new in opset 18."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=2)
        return (first - 2 * second)[:, :, 0]


def test_a_split_into_equal_parts_exports_at_every_opset(tmp_path: Path) -> None:
    report = export_planted(Halves(), tmp_path / "m.onnx", opset=13)
    assert "Split" in {node.op_type for node in onnx.load(report).graph.node} and report.opset == 13


class Overwrite(nn.Module):
    """Plain ScatterElements: `reduction`, which opset 16 brought, says only that there is none."""

    def forward(self, x: Tensor) -> Tensor:
        index = torch.tensor([7, 6, 5, 4, 3, 2, 1, 0]).expand(x.shape[0], 4, 8)
        return torch.zeros(x.shape[0], 4, 8).scatter(2, index, x)[:, :, 0]


@pytest.mark.parametrize("opset", [13, 15, 16, 18])
def test_a_scatter_that_overwrites_exports_at_every_opset(opset: int, tmp_path: Path) -> None:
    report = export_planted(Overwrite(), tmp_path / "m.onnx", opset=opset)
    assert "ScatterElements" in {node.op_type for node in onnx.load(report).graph.node} and report.opset == opset


@pytest.mark.parametrize(("part", "operator"), [(ScatterAdd(), "ScatterElements"), (IndexPut(), "ScatterND")])
def test_a_scatter_that_adds_up_is_refused_below_the_opset_that_has_it(
    part: nn.Module, operator: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=rf"{operator} .*opset 15(?s:.*)\nhint: export with a newer opset"):
        export_planted(part, tmp_path / "m.onnx", opset=15)
    assert list(tmp_path.iterdir()) == []
    assert export_planted(part, tmp_path / "m.onnx", opset=16).opset == 16


def scatter(operator: str, reduction: str | None) -> onnx.ModelProto:
    """A graph of one scatter (4, 2) at opset 18."""
    shape = (1, 2) if operator == "ScatterElements" else (1, 1)
    stated = {} if reduction is None else {"reduction": reduction}
    node = onnx.helper.make_node(operator, ["x", "at", "new"], ["y"], name="s", **stated)
    values = [
        onnx.helper.make_tensor_value_info(name, kind, axes)
        for name, kind, axes in (
            ("x", onnx.TensorProto.FLOAT, (4, 2)),
            ("at", onnx.TensorProto.INT64, shape),
            ("new", onnx.TensorProto.FLOAT, (1, 2)),
            ("y", onnx.TensorProto.FLOAT, (4, 2)),
        )
    ]
    graph = onnx.helper.make_graph([node], "g", values[:3], values[3:])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])


@pytest.mark.parametrize("operator", ["ScatterElements", "ScatterND"])
@pytest.mark.parametrize(
    ("reduction", "opset", "fits"),
    [
        (None, 13, True),
        ("none", 13, True),
        ("none", 17, True),
        ("add", 15, False),  # opset 16 brought `add` and `mul`
        ("add", 16, True),
        ("mul", 17, True),
        ("max", 17, False),  # and 18 the rest
    ],
)
def test_the_reduction_of_a_scatter_is_kept_dropped_or_refused(
    operator: str, reduction: str | None, opset: int, fits: bool
) -> None:
    model = scatter(operator, reduction)
    if fits:
        to_opset(model, opset)
        onnx.checker.check_model(model, full_check=True)
        kept = [attribute.s.decode() for attribute in model.graph.node[0].attribute]
        assert kept == ([reduction] if reduction in ("add", "mul") else [])
    else:
        with pytest.raises(ExportError, match=rf"{operator} \(node `s`\).*opset {opset}"):
            to_opset(model, opset)


class Sample(nn.Module):
    """Trap 4: opset 20 spells the mode in a way that TensorRT takes for nearest."""

    def forward(self, x: Tensor) -> Tensor:
        grid = torch.stack(
            torch.meshgrid(torch.linspace(-0.7, 0.7, 2), torch.linspace(-0.7, 0.7, 2), indexing="xy"), -1
        )
        return nn.functional.grid_sample(x, grid.expand(x.shape[0], 2, 2, 2), align_corners=False).flatten(1)


def test_trap_4_grid_sample_is_refused_at_opset_20_and_spelled_safely_below(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="takes for 'nearest'"):
        export_planted(Sample(), tmp_path / "m.onnx", shape=(1, 4, 4), opset=20)
    assert list(tmp_path.iterdir()) == []
    report = export_planted(Sample(), tmp_path / "m.onnx", shape=(1, 4, 4), opset=17)
    node = next(node for node in onnx.load(report).graph.node if node.op_type == "GridSample")
    assert {a.name: a.s for a in node.attribute}["mode"] == b"bilinear"


class Antialiased(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, (2, 2), mode="bilinear", antialias=True).flatten(1)


def test_an_operator_without_an_older_form_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="Resize"):
        export_planted(Antialiased(), tmp_path / "m.onnx", shape=(1, 4, 4), opset=17)


class ByValue(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(2) if float(x.sum()) > 0 else x.mean(2)


def test_a_network_that_cannot_be_traced_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="PyTorch cannot export this network"):
        export_planted(ByValue(), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_lost_or_swapped_state_is_caught(tmp_path: Path) -> None:
    class Forgetful(nn.Module):
        def __init__(self, step: nn.Module) -> None:
            super().__init__()
            self.step = step

        def forward(self, frame: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
            logits, *kept = self.step(frame, *states)
            if torch.compiler.is_exporting():
                kept[0], kept[1] = kept[1], kept[0]
            return (logits, *kept)

    broken = small_model()
    broken.runtime.traced["step"] = Forgetful(broken.runtime.modules["step"])  # type: ignore[attr-defined]
    with pytest.raises(ExportError, match="differs from PyTorch: `state_"):
        broken.export(tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_report_names_a_few_of_very_many_inputs(exported: Any) -> None:
    assert str(exported).count("state_in_") == sum(name.startswith("state_in_") for name in exported.inputs)
    many = replace(exported, inputs={f"near{index}": (None, 2) for index in range(90)})
    line = next(line for line in str(many).splitlines() if line.startswith("  inputs"))
    assert "near0 " in line and line.endswith("and 86 more: effvision info m.onnx") and len(line) < 200


def test_real_frames_take_part_in_the_check(shared: Path, tmp_path: Path) -> None:
    clip = shared / "data/video/intel/classroom.mp4"
    examples = small_model().example_inputs(
        "step", steps=4, batch=1, seed=0, frames=[np.full((40, 50, 3), 7, np.uint8)]
    )
    assert [float(inputs["frame"].std()) == 0.0 for inputs in examples] == [False, False, True, True]
    assert small_model().export(tmp_path / "m.onnx", frames=clip).check["steps"] == 16
