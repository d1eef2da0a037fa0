"""A network exported for editing equals the engine in torch, edit by edit; what cannot be exported is refused by name."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from edited import Exported, edits_of, far, numbers
from torch import Tensor, nn

from effvision.errors import ExportError, InputError
from effvision.export.edits import export_edits, make_edits
from effvision.metadata import GraphSpec, Metadata, TensorSpec
from effvision.models.sige.scenes_network import SceneGenerator
from effvision.runtime.edits import EditRuntime, driven
from effvision.runtime.onnx import OnnxRuntime
from painters import RandomNetwork, ResnetGenerator, SpadeGenerator, UnetGenerator


class Everything(nn.Module):
    """One of each operation that has a form for maps of any size, with skips across strides and enlargements."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 5, padding=2, padding_mode="reflect")
        self.norm = nn.BatchNorm2d(8)
        self.down = nn.Conv2d(8, 8, 4, 2, 1, groups=2)
        self.wide = nn.Conv2d(8, 8, 3, padding=2, dilation=2, padding_mode="replicate")
        self.up = nn.ConvTranspose2d(8, 8, 3, 2, 1, output_padding=1)
        self.slope = nn.PReLU(8)
        self.even = nn.Conv2d(16, 16, 2, padding="same", dilation=2)
        self.last = nn.Conv2d(4, 3, 3, padding=1)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm(self.first(x)))
        low = F.max_pool2d(self.slope(self.down(x)), 3, 1, 1)
        low = F.elu(self.wide(low)) + F.interpolate(F.avg_pool2d(low, 3, 2, 1), scale_factor=2.0, mode="nearest")
        low = low * F.interpolate(x, size=low.shape[2:], mode="nearest")
        high = torch.cat([self.up(low), F.interpolate(low, scale_factor=2, mode="bilinear")], 1)
        high = self.even(F.pad(high, (1, 0, 0, 2), value=0.5)[:, :, :-2, 1:])
        a, b, c = high.split([4, 4, 8], dim=1)
        a = a * torch.sigmoid(b) + F.hardtanh(c[:, 2:6]) - 0.3 * F.gelu(c[:, :4]).clamp(max=1.5) / 2
        return torch.tanh(self.last(F.softmax(a, 1) + F.pixel_shuffle(F.softplus(self.down(x)), 2)[:, :1]))


def small_scene() -> nn.Module:
    return SceneGenerator(channels=5, widths=(12, 10, 8, 6), hidden=(8, 8, 6, 6))


NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "scene": (small_scene, (1, 5, 64, 72)),
    "spade": (lambda: SpadeGenerator(5, 6, 2, nn.InstanceNorm2d), (1, 5, 48, 40)),
    "unet": (lambda: UnetGenerator(6, 3), (2, 3, 48, 40)),
    "resnet": (lambda: ResnetGenerator(6, 1), (1, 3, 44, 52)),
    "resnet, batch norms": (lambda: ResnetGenerator(6, 1, nn.BatchNorm2d), (1, 3, 48, 40)),
    "everything": (Everything, (1, 3, 40, 48)),
}


@pytest.fixture(scope="module", params=NETWORKS, ids=str)
def exported(request: pytest.FixtureRequest) -> Exported:
    build, shape = NETWORKS[request.param]
    torch.manual_seed(0)
    return Exported(build(), (numbers(*shape),))


@pytest.mark.parametrize("mode", ["local", "exact"])
def test_it_equals_the_engine_in_torch_over_edits_with_undo_and_redo(exported: Exported, mode: str) -> None:
    normed = any(name.startswith("scale_") for name in exported.engine()._statistics)
    mode = "frozen" if normed and mode == "exact" else mode
    wanted, engine = exported.wanted(mode, plan="rectangles"), exported.engine(mode, plan="rectangles")
    pictures = list(islice(edits_of(tuple(t.numpy() for t in exported.example), 1), 11))
    least = 1.0
    for number, picture in enumerate(pictures):
        first = wanted.update(tuple(torch.from_numpy(array) for array in picture))
        found = engine.update(picture)
        least = min(least, found.computed_fraction)
        assert found.changed == first.changed and list(found.how) == list(first.how)
        assert far(engine.output, wanted.output) < 1e-5
        if number % 4 == 3:
            for one in (wanted, engine):
                one.undo(to=number - 2)
            assert far(engine.output, wanted.output) < 1e-5
            wanted.redo(), engine.redo()
            assert far(engine.output, wanted.output) < 1e-5
            wanted.redo(), engine.redo()
    assert least < (0.75 if mode == "local" else 1.0)
    if mode == "exact":
        assert far(engine.output, exported.dense(pictures[-1])) < 1e-5


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_a_window_that_reaches_further_behind_than_before_stays_in_place() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 2, padding="same"), nn.ReLU(), nn.Conv2d(4, 3, 4, padding="same")]
    exported = Exported(nn.Sequential(*layers), (numbers(1, 3, 15, 17),))
    engine = exported.engine("exact", plan="rectangles")
    for picture in islice(edits_of((numbers(1, 3, 15, 17),), 4), 12):
        assert far(engine.update(picture).output, exported.dense(picture)) < 1e-5


SEEDS = (41, 65, 78, 139, 246, 291, 338, 349, 364, 372, 403, 409)
"""Those of the first 420 that can be exported and hold most kinds of operations."""


def test_random_networks_are_exact_after_any_edit() -> None:
    for seed in SEEDS:
        network = RandomNetwork(seed, norms=seed % 2 == 1)
        inputs = tuple(tensor.float().numpy() for tensor in network.inputs())
        exported = Exported(network.float(), inputs)
        normed = bool(exported.engine()._statistics)
        wanted, engine = (one("frozen" if normed else "exact") for one in (exported.wanted, exported.engine))
        for picture in islice(edits_of(inputs, seed), 6):
            wanted.update(tuple(torch.from_numpy(array) for array in picture))
            assert far(engine.update(picture).output, wanted.output) < 1e-5, seed


class Refused(nn.Module):
    """Works over the whole map at one place, and takes a cumulative sum at another."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = x * torch.sigmoid(x.mean((2, 3), keepdim=True))
        return torch.erfinv(self.b(x).tanh())


def described(shape: tuple[int, ...], outputs: int = 3) -> tuple[Metadata, GraphSpec]:
    spec = GraphSpec("step", (TensorSpec("picture", shape),), (TensorSpec("drawn", (1, outputs, *shape[2:])),))
    return Metadata("sige", "", "editing", ("a", "b"), {"step": spec}, {}, {}, weights_sha256="0" * 64), spec


def test_all_that_cannot_be_exported_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    metadata, spec = described((1, 3, 16, 16))
    pictures = edits_of((numbers(1, 3, 16, 16),), 0)
    with pytest.raises(
        ExportError, match=r"(?s)`mean` \(mean\): it works over the whole map.*`erfinv` \(erfinv\)"
    ) as error:
        export_edits(Refused().eval(), metadata, spec, pictures, tmp_path / "m.onnx")
    assert "hint: " in str(error.value) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"), "`pad` .*circular"),
        (nn.Upsample(size=(17, 20)), "upsample_nearest2d.*16x16 to 17x20 pixels is not by a whole number"),
        (nn.AvgPool2d(3, 2, ceil_mode=True), "avg_pool2d.*ceil_mode"),
        (nn.AdaptiveAvgPool2d(1), "adaptive_avg_pool2d.*global pooling"),
    ],
)
def test_what_has_no_form_for_crops_says_why(layer: nn.Module, why: str) -> None:
    with pytest.raises(ExportError, match=why):
        make_edits(nn.Sequential(layer, nn.ReLU()).eval(), (torch.zeros(1, 3, 16, 16),))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Any]:
    torch.manual_seed(1)
    network = small_scene().eval()
    metadata, spec = described((1, 5, 32, 40))
    path = tmp_path_factory.mktemp("edits") / "m.onnx"
    return network, export_edits(network, metadata, spec, edits_of((numbers(1, 5, 32, 40),), 3), path)


def test_the_file_is_seen_as_the_network_it_was_made_of(written: tuple[nn.Module, Any]) -> None:
    network, report = written
    assert (
        report.check["max_abs"] < 1e-5
        and report.check["steps"] == 16
        and "16 edits in mode local and 6 in mode exact" in str(report)
    )
    runtime, metadata = driven(*OnnxRuntime.load(report, threads=2))
    assert isinstance(runtime, EditRuntime) and metadata.graphs == runtime.graphs
    spec = runtime.graphs["step"]
    assert [(t.name, t.shape) for t in (*spec.inputs, *spec.outputs)] == [
        ("picture", (1, 5, 32, 40)), ("drawn", (1, 3, 32, 40)),
    ]  # fmt: skip
    picture = numbers(1, 5, 32, 40, seed=5)
    outputs, _ = runtime.step({"picture": picture}, runtime.initial_state())
    with torch.no_grad():
        wanted = network(torch.from_numpy(picture))
    assert far(outputs["drawn"], wanted) < 1e-5
    assert runtime.multiply_adds("step", 1) > 1e5
    editor = runtime.editor(mode="exact", journal_bytes=1 << 20)
    editor.update({"picture": picture})
    picture[:, :, 3, 3] += 1
    assert editor.update({"picture": picture}).computed_fraction < 1
    with torch.no_grad():
        assert far(editor.output, network(torch.from_numpy(picture))) < 1e-5


def test_weights_are_stored_once_and_the_same_export_gives_the_same_bytes(written: tuple[nn.Module, Any]) -> None:
    network, report = written
    metadata, spec = described((1, 5, 32, 40))
    again = export_edits(
        network, metadata, spec, edits_of((numbers(1, 5, 32, 40),), 3), Path(report).with_name("again.onnx")
    )
    assert again.sha256 == report.sha256
    graph = onnx.load(report).graph
    branches = [attribute.g for node in graph.node for attribute in node.attribute if attribute.name == "then_branch"]
    stored = sum(int(np.prod(t.dims)) for branch in branches for t in branch.initializer if len(t.dims) == 4)
    assert stored == sum(p.numel() for p in network.parameters() if p.ndim == 4)
    assert not graph.initializer and len(branches) == 5


def test_a_large_network_takes_no_more_than_two_hundredths_over_its_weights() -> None:
    network = SceneGenerator().eval()
    model, spec, data, _ = make_edits(network, (torch.zeros(1, network.channels, 64, 64),))
    metadata = replace(described((1, network.channels, 64, 64))[0], graphs={"step": spec}, options={"edits": data})
    size = model.ByteSize() + len(metadata.to_json())
    assert size <= 1.02 * sum(tensor.nbytes for tensor in network.state_dict().values())


@pytest.mark.parametrize("opset", [13, 20])
def test_older_and_newer_opsets_are_written(opset: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    metadata, spec = described((1, 3, 24, 32))
    report = export_edits(
        UnetGenerator(4, 2).eval(),
        metadata,
        spec,
        edits_of((numbers(1, 3, 24, 32),), 0),
        tmp_path / "m.onnx",
        opset=opset,
    )
    assert report.opset == opset


def test_arguments_out_of_range_are_refused_before_anything_is_traced(tmp_path: Path) -> None:
    metadata, spec = described((1, 3, 16, 16))
    for name, options in (("m.txt", {}), ("m.onnx", {"opset": 12}), ("m.onnx", {"steps": 2})):
        with pytest.raises(InputError):
            export_edits(Refused(), metadata, spec, iter(()), tmp_path / name, **options)  # type: ignore[arg-type]


def test_a_graph_that_differs_from_pytorch_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from effvision.export import edit_operators

    monkeypatch.setitem(edit_operators._FORMS, "leaky_relu", edit_operators._one("Relu"))
    metadata, spec = described((1, 3, 24, 32))
    torch.manual_seed(0)
    with pytest.raises(ExportError, match="differs from PyTorch: output 0 after edit 0 in mode local"):
        export_edits(
            UnetGenerator(4, 2).eval(), metadata, spec, edits_of((numbers(1, 3, 24, 32),), 0), tmp_path / "m.onnx"
        )
    assert list(tmp_path.iterdir()) == []
