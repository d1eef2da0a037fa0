"""Float16 files: half the size, float32 at the ends, near the float32 answers, or refused."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

from colours import COLOURS, changing, colour_model, steady, trace_once
from effvision import TSM
from effvision.errors import ExportError, InputError, MissingDependencyError
from effvision.export import ExportReport
from effvision.export.int8_graph import find_form
from effvision.models.tsm.network import insert_temporal_shift
from effvision.runtime.onnx import open_session, read_metadata
from refusals import refused


@lru_cache
def wide() -> TSM:
    """Enough weights that what stands around them hardly counts."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 64, 4, 4), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4)
    )
    network = insert_temporal_shift(layers, direction="causal", sites=["2"]).eval()
    return TSM.from_network(network, labels="abcd", size=(32, 32), fps=10.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExportReport]:
    folder = tmp_path_factory.mktemp("half")
    with pytest.MonkeyPatch.context() as monkeypatch:
        trace_once(monkeypatch)
        return {
            "float": wide().export(folder / "float.onnx"),
            "half": wide().export(folder / "half.onnx", half=True),
            "colours": colour_model().export(folder / "colours.onnx", half=True),
        }


def test_it_takes_half_the_room_and_its_weights_are_float16(files: dict[str, ExportReport]) -> None:
    assert 0.48 < files["half"].size / files["float"].size < 0.56
    graph = onnx.load(files["half"])
    big = [tensor for tensor in graph.graph.initializer if np.prod(tensor.dims) > 16]
    assert big and {tensor.data_type for tensor in big} == {TensorProto.FLOAT16}
    assert graph.opset_import[0].version == 17 and graph.ir_version == 8 and find_form(graph) is None
    assert not graph.graph.value_info and not any(node.doc_string for node in graph.graph.node)
    assert graph.producer_name == "effvision" and not graph.producer_version


def test_inputs_outputs_and_states_stay_float32(files: dict[str, ExportReport]) -> None:
    graph = onnx.load(files["half"])
    ends = [*graph.graph.input, *graph.graph.output]
    assert {value.type.tensor_type.elem_type for value in ends} == {TensorProto.FLOAT}
    assert files["half"].inputs == files["float"].inputs and files["half"].outputs == files["float"].outputs


def test_it_answers_nearly_as_float32_does_and_says_so(files: dict[str, ExportReport]) -> None:
    one, other = TSM.from_pretrained(files["float"]), TSM.from_pretrained(files["half"])
    for source in changing(2):
        mine, theirs = one.session(smoothing=None), other.session(smoothing=None)
        wanted, got = ([s.update(frame).logits for frame in source] for s in (mine, theirs))  # type: ignore[attr-defined]
        np.testing.assert_allclose(got, wanted, rtol=0, atol=5e-3 * float(np.abs(wanted).max()))
        assert not np.array_equal(got, wanted)
    report: Any = files["half"].precision
    assert report.same == report.answers == 64 and 0 < report.relative_rms < 5e-3
    assert "float16: " in str(files["half"]) and "slower than float32 on a processor" in str(files["half"])
    assert other.runtime.multiply_adds("step", 1) == one.runtime.multiply_adds("step", 1)


def test_its_state_is_carried(files: dict[str, ExportReport]) -> None:
    model = TSM.from_pretrained(files["colours"])
    assert [model.predict(source).label for source, _ in steady()] == list(COLOURS)  # type: ignore[attr-defined]


def test_it_says_what_it_computes_with(files: dict[str, ExportReport]) -> None:
    block = read_metadata(open_session(files["half"]), where="the file").precision
    report: Any = files["half"].precision
    assert block == {"half": json.loads(json.dumps(report.to_dict()))}
    assert files["half"].to_dict()["precision"]["size"] == block["half"]["size"]


def test_the_same_export_gives_the_same_bytes_and_says_nothing(
    files: dict[str, ExportReport], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert wide().export(tmp_path / "again.onnx", half=True).sha256 == files["half"].sha256
    assert capfd.readouterr() == ("", "")


def test_any_number_of_streams_works(tmp_path: Path) -> None:
    report: Any = wide().export(tmp_path / "m.onnx", batch="dynamic", half=True)
    model = TSM.from_pretrained(report)
    frames = [source[0] for source in changing(3)]
    assert len(model.update_many([model.session() for _ in frames], frames)) == 3
    assert wide().export(tmp_path / "two.onnx", batch=2, half=True).inputs["frame"] == (2, 3, 32, 32)


def too_large(where: str) -> TSM:
    """A network whose float32 answers are sound, with numbers on the way that float16 cannot hold."""
    model = wide()
    network = insert_temporal_shift(
        nn.Sequential(
            nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
        ),
        direction="causal",
        sites=["1"],
    ).eval()
    with torch.no_grad():
        first, second, last = network.network[0], network.network[1].net, network.network[4]
        if where == "weights":
            second.weight.mul_(1e6)
            last.weight.mul_(1e-6)
        else:  # each weight fits, their products do not
            first.weight.mul_(1e3)
            second.weight.mul_(1e3)
            last.weight.mul_(1e-3)
    return TSM.from_network(network, labels=model.labels, size=(32, 32), fps=10.0)


@pytest.mark.parametrize("where", ["weights", "activations"])
def test_numbers_that_do_not_fit_are_refused_and_leave_nothing(where: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    message = refused(
        lambda: too_large(where).export(tmp_path / "m.onnx", half=True),
        "float16 is refused: `",
        "reaches",
        "65504",
        kind=ExportError,
    )
    assert "hint: keep float32" in message and list(tmp_path.iterdir()) == []


def test_half_and_int8_are_not_one_file(tmp_path: Path) -> None:
    refused(lambda: wide().export(tmp_path / "m.onnx", half=True, int8="cpu"), "two precisions", kind=InputError)


def test_without_a_converter_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime.transformers.float16", None)
    with pytest.raises(MissingDependencyError, match="hint: "):
        wide().export(tmp_path / "m.onnx", half=True)
    assert list(tmp_path.iterdir()) == []
