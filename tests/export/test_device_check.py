"""What a device makes of a file, predicted: every rule on a small graph, the four traps, and files that are no model."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from effvision.cli import main
from effvision.errors import DTypeError, EffvisionError, InputError, MissingDependencyError, ModelFileError
from effvision.export.device_check import DeviceReport, Finding, check_device
from effvision.export.device_graph import walk
from effvision.export.device_values import UNKNOWN
from effvision.export.operators import operator_table
from effvision.export.targets import TARGETS
from effvision.weights import __file__ as weights_file
from waiting import best_of_three

BUNDLED = Path(weights_file).with_name("tsm-mobilenetv2-motion.onnx")
NANO, JP51, JP60, JP62, JP72 = "jetson-nano", "jp51", "jp60", "jp62", "jp72"  # TensorRT 8.2, 8.5, 8.6, 10.3, 10.16
JETSONS = (NANO, JP51, JP60, JP62, JP72)
TRT8, TRT10 = (NANO, JP51, JP60), (JP62, JP72)
OK, LIMITED, SILENT, UNSUPPORTED = "ok", "limited", "silently wrong", "unsupported"

Shape = tuple[int | str, ...]
FLOAT, INT64, UINT8, INT8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8, TensorProto.INT8


def const(name: str, values: Any, kind: type = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, kind), name)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[int, Shape]],
    *constants: onnx.TensorProto,
    opset: int = 13,
    ir: int = 8,
    outputs: Sequence[str] | None = None,
    **more: Any,
) -> onnx.ModelProto:
    """A graph; its outputs have no stated type, so that nothing but the nodes under test is judged."""
    names = outputs if outputs is not None else nodes[-1].output
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in names if name],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir, **more)


def one(
    operator: str,
    inputs: Sequence[str],
    shapes: dict[str, tuple[int, Shape]],
    *constants: onnx.TensorProto,
    opset: int = 13,
    outputs: Sequence[str] = ("y",),
    **attributes: Any,
) -> onnx.ModelProto:
    """A graph of one node named `n`."""
    node = helper.make_node(operator, inputs, outputs, name="n", **attributes)
    return model([node], shapes, *constants, opset=opset)


def of_nodes(report: DeviceReport) -> list[Finding]:
    return [finding for finding in report.findings if finding.op]


def verdict(graph: onnx.ModelProto, target: str, node: str = "n") -> tuple[str, str]:
    """The worst verdict on a node, and its reason."""
    found = [finding for finding in check_device(graph, target).findings if finding.node == node]
    order = (OK, LIMITED, UNSUPPORTED, SILENT)
    worst = max(found, key=lambda finding: order.index(finding.verdict))
    return worst.verdict, worst.reason


PICTURE = {"x": (FLOAT, (1, 4, 8, 8))}
MATRIX = {"x": (FLOAT, (4, 8))}
COMPUTED = {"k": (INT64, (1,))}  # a graph input: what is not known when the engine is built

SCATTER = {"x": (FLOAT, (4, 2)), "at": (INT64, (1, 2)), "new": (FLOAT, (1, 2))}
SCATTER_ND = {"x": (FLOAT, (4, 2)), "at": (INT64, (1, 1)), "new": (FLOAT, (1, 2))}
NARROW = {"x": (FLOAT, (4, 2)), "at": (TensorProto.INT32, (1, 2)), "new": (FLOAT, (1, 2))}
GRID = {"x": (FLOAT, (1, 4, 8, 8)), "grid": (FLOAT, (1, 5, 5, 2))}
VOLUME = {"x": (FLOAT, (1, 4, 8, 8, 8)), "grid": (FLOAT, (1, 5, 5, 5, 3))}
TO_SCATTER = ["x", "at", "new"]


# --- the four traps of the notes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [*JETSONS, "onnx"])
def test_trap_1_a_mean_that_pytorch_wrote_as_overwrite_is_told_by_its_own_note(target: str) -> None:
    graph = one("ScatterElements", TO_SCATTER, SCATTER, opset=18, reduction="none")
    call = "%s : call_function[target=torch.ops.aten.scatter_reduce.two](args = (%z, 1, %i, %x, {}), kwargs = {{}})"
    note = graph.graph.node[0].metadata_props.add(key="pkg.torch.onnx.fx_node", value=call.format("mean"))
    assert verdict(graph, target)[0] == SILENT
    note.value = call.format("amax")  # whose first step does overwrite
    assert verdict(graph, target)[0] == OK


@pytest.mark.slow
def test_trap_1_pytorch_still_writes_that_note(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Mean(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any, index: Any) -> Any:
            return torch.zeros(2, 4).scatter_reduce(1, index, x, "mean", include_self=False)

    from effvision.export._quiet import quiet

    with quiet():
        program = torch.onnx.export(
            Mean(), (torch.ones(2, 8), torch.zeros(2, 8, dtype=torch.int64)), dynamo=True, verbose=False
        )
    reductions = {a.s for node in program.model_proto.graph.node for a in node.attribute if a.name == "reduction"}
    if reductions != {b"none"}:
        pytest.skip("this PyTorch writes the mean rightly")
    assert SILENT in {finding.verdict for finding in check_device(program.model_proto, "onnx").findings}


def test_trap_1_a_file_without_notes_is_a_valid_overwrite_and_the_report_does_not_pretend_to_have_run() -> None:
    report = check_device(one("ScatterElements", TO_SCATTER, SCATTER, opset=17, reduction="none"), JP62)
    assert report.verdict == OK and report.predicted and "predicted, nothing ran" in str(report)


@pytest.mark.parametrize(("target", "newest"), [(NANO, 13), (JP51, 17), (JP60, 17), (JP62, 20), ("onnx", 20)])
def test_trap_2_the_opset_is_the_one_in_the_file_and_one_too_new_is_refused(target: str, newest: int) -> None:
    fits = check_device(one("Relu", ["x"], MATRIX, opset=newest), target)
    assert fits.verdict == OK
    report = check_device(one("Relu", ["x"], MATRIX, opset=newest + 1), target)
    assert report.verdict == UNSUPPORTED
    assert f"opset {newest + 1}" in report.problems[0].reason and report.problems[0].node == ""
    assert f"opset {TARGETS[target].opset}" in report.problems[0].hint


@pytest.mark.parametrize("reduction", ["add", "mul", "max", "min"])
@pytest.mark.parametrize("target", JETSONS)
def test_trap_3_a_reduction_of_scatter_elements_is_silent_in_8_and_a_plugin_in_10(target: str, reduction: str) -> None:
    graph = one("ScatterElements", TO_SCATTER, SCATTER, opset=18, reduction=reduction)
    found, reason = verdict(graph, target)
    assert found == (SILENT if target in TRT8 else LIMITED)
    assert reduction in reason


@pytest.mark.parametrize("target", JETSONS)
def test_trap_3_a_reduction_of_scatter_nd_is_silent_in_8_and_refused_in_10(target: str) -> None:
    found, _ = verdict(one("ScatterND", TO_SCATTER, SCATTER_ND, opset=16, reduction="add"), target)
    assert found == (SILENT if target in TRT8 else UNSUPPORTED)


@pytest.mark.parametrize(
    ("target", "stated", "expected"),
    [
        (JP60, True, OK),
        (JP62, True, UNSUPPORTED),  # 10.0 to 10.8 refuse the attribute whatever it says
        (JP62, False, OK),
        (JP72, True, OK),
    ],
)
def test_trap_3_a_stated_none_is_refused_by_the_first_releases_of_10(target: str, stated: bool, expected: str) -> None:
    attributes = {"reduction": "none"} if stated else {}
    assert verdict(one("ScatterND", TO_SCATTER, SCATTER_ND, opset=16, **attributes), target)[0] == expected


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("target", [JP51, JP60, JP62, JP72])
def test_trap_4_the_spelling_of_opset_20_is_sampled_nearest_in_silence(target: str, mode: str) -> None:
    found, reason = verdict(one("GridSample", ["x", "grid"], GRID, opset=20, mode=mode), target)
    assert found == SILENT and "nearest" in reason


@pytest.mark.parametrize(
    ("opset", "attributes"),
    [(16, {"mode": "bilinear"}), (16, {"mode": "bicubic"}), (20, {"mode": "nearest"}), (16, {}), (20, {})],
)
def test_trap_4_the_old_spelling_and_none_at_all_are_fine(opset: int, attributes: dict[str, str]) -> None:
    assert verdict(one("GridSample", ["x", "grid"], GRID, opset=opset, **attributes), JP62)[0] == OK


# --- one node each -----------------------------------------------------------------------------------------------------

QDQ_SCALE = const("s", 0.5, np.float32)
PER_CHANNEL = const("s", [0.5] * 4, np.float32)
AXES = const("a", [1])
SIZES = const("sizes", [1, 4, 16, 16])

# name: (graph, {target: verdict}); what a target is not named for has to be ok
RULES: dict[str, tuple[onnx.ModelProto, dict[str, str]]] = {
    "not in ONNX": (one("Frobnicate", ["x"], MATRIX), dict.fromkeys(JETSONS, UNSUPPORTED)),
    "never": (one("Unique", ["x"], MATRIX), dict.fromkeys(JETSONS, UNSUPPORTED)),
    "since 8.4": (one("HardSwish", ["x"], MATRIX, opset=14), {NANO: UNSUPPORTED}),
    "since 8.6": (
        one("LayerNormalization", ["x", "w"], MATRIX, const("w", [1.0] * 8, np.float32), opset=17),
        {NANO: UNSUPPORTED, JP51: UNSUPPORTED},
    ),
    "since 10.0": (one("Gelu", ["x"], MATRIX, opset=20), dict.fromkeys(TRT8, UNSUPPORTED)),
    "since 10.1": (
        one(
            "DeformConv",
            ["x", "w", "o"],
            {**PICTURE, "w": (FLOAT, (4, 4, 3, 3)), "o": (FLOAT, (1, 18, 6, 6))},
            opset=19,
        ),
        dict.fromkeys(TRT8, UNSUPPORTED),
    ),
    "scatter with narrow indices": (
        one("ScatterElements", TO_SCATTER, NARROW, opset=16, reduction="add"),
        {**dict.fromkeys(TRT8, SILENT), **dict.fromkeys(TRT10, UNSUPPORTED)},
    ),
    "grid sample": (one("GridSample", ["x", "grid"], GRID, opset=16), {NANO: UNSUPPORTED}),
    "grid sample of volumes": (
        one("GridSample", ["x", "grid"], VOLUME, opset=20),
        dict.fromkeys(JETSONS, UNSUPPORTED),
    ),
    "resize antialias": (
        one("Resize", ["x", "", "", "sizes"], PICTURE, SIZES, opset=18, mode="linear", antialias=1),
        dict.fromkeys(JETSONS, UNSUPPORTED),
    ),
    "resize axes": (
        one("Resize", ["x", "", "", "two"], PICTURE, const("two", [16, 16]), opset=18, mode="linear", axes=[2, 3]),
        dict.fromkeys(TRT8, UNSUPPORTED),
    ),
    "resize cubic": (one("Resize", ["x", "", "", "sizes"], PICTURE, SIZES, mode="cubic"), {NANO: UNSUPPORTED}),
    "resize linear": (one("Resize", ["x", "", "", "sizes"], PICTURE, SIZES, mode="linear"), {}),
    "resize crop": (
        one("Resize", ["x", "", "", "sizes"], PICTURE, SIZES, coordinate_transformation_mode="tf_crop_and_resize"),
        dict.fromkeys(JETSONS, UNSUPPORTED),
    ),
    "resize keeping the aspect": (
        one("Resize", ["x", "", "", "sizes"], PICTURE, SIZES, opset=18, keep_aspect_ratio_policy="not_larger"),
        dict.fromkeys(JETSONS, UNSUPPORTED),
    ),
    "top k": (one("TopK", ["x", "k"], MATRIX, const("k", [3]), outputs=["y", "i"]), {}),
    "top k computed": (
        one("TopK", ["x", "k"], MATRIX | COMPUTED, outputs=["y", "i"]),
        {NANO: UNSUPPORTED, JP51: UNSUPPORTED},
    ),
    "top k too many": (
        one("TopK", ["x", "k"], {"x": (FLOAT, (1, 9000))}, const("k", [3840]), outputs=["y", "i"]),
        dict.fromkeys(JETSONS, UNSUPPORTED),
    ),
    "top k unsorted": (
        one("TopK", ["x", "k"], MATRIX, const("k", [3]), outputs=["y", "i"], sorted=0),
        {**dict.fromkeys(TRT8, LIMITED), **dict.fromkeys(TRT10, UNSUPPORTED)},
    ),
    "pool": (one("MaxPool", ["x"], PICTURE, kernel_shape=[2, 2]), {}),
    "pool indices": (
        one("MaxPool", ["x"], PICTURE, kernel_shape=[2, 2], outputs=["y", "i"]),
        dict.fromkeys(JETSONS, UNSUPPORTED),
    ),
    "pool dilations": (
        one("MaxPool", ["x"], PICTURE, kernel_shape=[2, 2], dilations=[2, 2]),
        dict.fromkeys(JETSONS, UNSUPPORTED),
    ),
    "pool 1-D": (one("MaxPool", ["x"], {"x": (FLOAT, (1, 4, 8))}, kernel_shape=[2]), dict.fromkeys(JETSONS, LIMITED)),
    "conv": (one("Conv", ["x", "w"], PICTURE, const("w", np.zeros((4, 4, 3, 3)), np.float32)), {}),
    "conv computed": (one("Conv", ["x", "w"], PICTURE | {"w": (FLOAT, (4, 4, 3, 3))}), {NANO: UNSUPPORTED}),
    "conv 4-D": (
        one(
            "Conv", ["x", "w"], {"x": (FLOAT, (1, 1, 4, 4, 4, 4))}, const("w", np.zeros((1, 1, 2, 2, 2, 2)), np.float32)
        ),
        dict.fromkeys(JETSONS, UNSUPPORTED),
    ),
    "slice axes computed": (
        one("Slice", ["x", "a", "e", "k"], MATRIX | COMPUTED, AXES, const("e", [3])),
        dict.fromkeys(TRT8, UNSUPPORTED),  # 10.3 takes them
    ),
    "squeeze axes computed": (
        one("Squeeze", ["x", "k"], {"x": (FLOAT, (1, 8))} | COMPUTED),
        dict.fromkeys((*TRT8, JP62), UNSUPPORTED),
    ),
    "unsqueeze axes computed": (
        one("Unsqueeze", ["x", "k"], MATRIX | COMPUTED),
        dict.fromkeys((*TRT8, JP62), UNSUPPORTED),
    ),
    "cumsum axis computed": (one("CumSum", ["x", "k"], MATRIX | COMPUTED), dict.fromkeys(JETSONS, UNSUPPORTED)),
    "pad axes": (
        one("Pad", ["x", "p", "", "a"], MATRIX, const("p", [1, 1]), AXES, opset=18),
        dict.fromkeys(TRT8, UNSUPPORTED),
    ),
    "pad axes computed": (
        one("Pad", ["x", "p", "", "k"], MATRIX | COMPUTED, const("p", [1, 1]), opset=18),
        dict.fromkeys((*TRT8, JP62), UNSUPPORTED),  # 10.4 takes them
    ),
    "pad wrap": (
        one("Pad", ["x", "p"], MATRIX, const("p", [1] * 4), opset=19, mode="wrap"),
        dict.fromkeys(TRT8, UNSUPPORTED),
    ),
    "reduce axes as attribute": (one("ReduceMean", ["x"], MATRIX, axes=[1]), {}),
    "reduce axes as input": (one("ReduceMean", ["x", "a"], MATRIX, AXES, opset=18), dict.fromkeys(TRT8, UNSUPPORTED)),
    "sum axes as input": (one("ReduceSum", ["x", "a"], MATRIX, AXES), {}),
    "sum axes computed": (one("ReduceSum", ["x", "k"], MATRIX | COMPUTED), dict.fromkeys(JETSONS, UNSUPPORTED)),
    "split num_outputs": (
        one("Split", ["x"], MATRIX, opset=18, outputs=["y", "z"], num_outputs=2),
        dict.fromkeys(TRT8, UNSUPPORTED),
    ),
    "quantize": (one("QuantizeLinear", ["x", "s", "z"], MATRIX, QDQ_SCALE, const("z", 0, np.int8)), {}),
    "quantize unsigned": (
        one("QuantizeLinear", ["x", "s", "z"], MATRIX, QDQ_SCALE, const("z", 128, np.uint8)),
        dict.fromkeys(JETSONS, UNSUPPORTED),
    ),
    "quantize unsigned at 0": (
        one("QuantizeLinear", ["x", "s", "z"], MATRIX, QDQ_SCALE, const("z", 0, np.uint8)),
        dict.fromkeys(JETSONS, UNSUPPORTED),
    ),
    "quantize asymmetric": (
        one("QuantizeLinear", ["x", "s", "z"], MATRIX, QDQ_SCALE, const("z", -3, np.int8)),
        dict.fromkeys(JETSONS, UNSUPPORTED),
    ),
    "quantize without zero point": (
        one("QuantizeLinear", ["x", "s"], MATRIX, QDQ_SCALE),
        dict.fromkeys(JETSONS, LIMITED),
    ),
    "quantize activations per channel": (
        one("QuantizeLinear", ["x", "s", "z"], PICTURE, PER_CHANNEL, const("z", [0] * 4, np.int8), axis=1),
        dict.fromkeys(JETSONS, UNSUPPORTED),
    ),
    "dequantize weights per channel": (
        one(
            "DequantizeLinear",
            ["w", "s", "z"],
            {},
            const("w", np.zeros((4, 4)), np.int8),
            PER_CHANNEL,
            const("z", [0] * 4, np.int8),
            axis=0,
        ),
        {},
    ),
    "dequantize a bias": (
        one("DequantizeLinear", ["w", "s"], {}, const("w", [1, 2], np.int32), QDQ_SCALE),
        dict.fromkeys(JETSONS, UNSUPPORTED),
    ),
    "non-zero": (one("NonZero", ["x"], MATRIX), {NANO: UNSUPPORTED, **dict.fromkeys(JETSONS[1:], LIMITED)}),
    "layer normalization's mean": (
        one("LayerNormalization", ["x", "w"], MATRIX, const("w", [1.0] * 8, np.float32), opset=17, outputs=["y", "m"]),
        dict.fromkeys(JETSONS, UNSUPPORTED),
    ),
    "batch normalization in training": (
        one(
            "BatchNormalization",
            ["x", "a", "a", "a", "a"],
            PICTURE,
            const("a", [1.0] * 4, np.float32),
            opset=15,
            training_mode=1,
            outputs=["y", "m", "v"],
        ),
        dict.fromkeys(JETSONS, UNSUPPORTED),
    ),
    "einsum": (one("Einsum", ["x", "x"], MATRIX, equation="ij,kj->ik"), {}),
    "einsum diagonal": (
        one("Einsum", ["x"], {"x": (FLOAT, (4, 4))}, equation="ii->i"),
        dict.fromkeys((*TRT8, JP62), UNSUPPORTED),  # free from 10.12 on
    ),
    "einsum ellipsis": (
        one("Einsum", ["x"], MATRIX, equation="...i->...i"),
        dict.fromkeys((*TRT8, JP62), UNSUPPORTED),
    ),
    "einsum capitals": (one("Einsum", ["x"], MATRIX, equation="Ai->iA"), dict.fromkeys(JETSONS, UNSUPPORTED)),
    "lstm layout": (
        one(
            "LSTM",
            ["x", "w", "r"],
            {"x": (FLOAT, (1, 2, 8)), "w": (FLOAT, (1, 16, 8)), "r": (FLOAT, (1, 16, 4))},
            opset=14,
            hidden_size=4,
            layout=1,
        ),
        dict.fromkeys(JETSONS, UNSUPPORTED),
    ),
    "random seed": (one("RandomUniformLike", ["x"], MATRIX, seed=1.0), dict.fromkeys(JETSONS, LIMITED)),
    "one hot depth computed": (
        one("OneHot", ["a", "k", "v"], COMPUTED, AXES, const("v", [0, 1], np.float32)),
        dict.fromkeys(JETSONS, UNSUPPORTED),
    ),
    "dropout in training": (
        one("Dropout", ["x", "", "t"], MATRIX, const("t", True, np.bool_)),
        dict.fromkeys(JETSONS, UNSUPPORTED),
    ),
    "a constant of text": (
        one("Constant", [], {}, value_string="text"),
        dict.fromkeys(JETSONS, UNSUPPORTED),
    ),
    # types
    "double": (one("Relu", ["x"], {"x": (TensorProto.DOUBLE, (4,))}), dict.fromkeys(JETSONS, LIMITED)),
    "unsigned bytes": (one("Transpose", ["x"], {"x": (UINT8, (4, 4))}), dict.fromkeys(JETSONS, UNSUPPORTED)),
    "unsigned bytes cast": (one("Cast", ["x"], {"x": (UINT8, (4, 4))}, to=FLOAT), {NANO: UNSUPPORTED}),
    "cast to 16 bit": (one("Cast", ["x"], MATRIX, to=TensorProto.INT16), dict.fromkeys(JETSONS, UNSUPPORTED)),
    "cast to text": (one("Cast", ["x"], MATRIX, to=TensorProto.STRING), dict.fromkeys(JETSONS, UNSUPPORTED)),
    "bool arithmetic": (
        one("MatMul", ["x", "x"], {"x": (TensorProto.BOOL, (4, 4))}),
        dict.fromkeys(JETSONS, UNSUPPORTED),
    ),
    "bool logic": (one("And", ["x", "x"], {"x": (TensorProto.BOOL, (4, 4))}), {}),
    "whole numbers multiplied": (
        one("MatMul", ["x", "x"], {"x": (INT64, (4, 4))}),
        dict.fromkeys(JETSONS, UNSUPPORTED),
    ),
    "whole numbers added": (one("Add", ["x", "x"], {"x": (INT64, (4, 4))}), {}),  # 8.x narrows them itself
    "bfloat16": (one("Relu", ["x"], {"x": (TensorProto.BFLOAT16, (4,))}), dict.fromkeys(TRT8, UNSUPPORTED)),
    "whole numbers filled": (
        one("ConstantOfShape", ["a"], {}, AXES, value=const("v", [7])),
        dict.fromkeys(TRT8, LIMITED),  # 10.1 has them in its table
    ),
}


@pytest.mark.parametrize("target", [*JETSONS, "onnx"])
@pytest.mark.parametrize("rule", list(RULES))
def test_a_rule_says_what_each_release_makes_of_a_node(rule: str, target: str) -> None:
    graph, expected = RULES[rule]
    before = graph.SerializeToString(deterministic=True)
    report = check_device(graph, target)
    wanted = UNSUPPORTED if (rule, target) == ("not in ONNX", "onnx") else expected.get(target, OK)
    assert verdict(graph, target)[0] == wanted
    assert all(finding.reason and finding.hint for finding in report.problems)
    assert graph.SerializeToString(deterministic=True) == before


def test_every_operator_of_the_newest_release_is_ok_somewhere_and_the_others_nowhere() -> None:
    table = operator_table()
    assert len(table.operators) == 196 and all(len(row) == len(table.releases) for row in table.operators.values())
    assert table.lookup("Relu", (10, 16)) == table.lookup("Relu", (10, 1))  # newer than the table: its last column
    assert table.lookup("Relu", (8, 3)) == table.lookup("Relu", (8, 2))
    assert table.lookup("Nonsense", (10, 1)) is None and "Apache-2.0" in table.source


@pytest.mark.shared
def test_the_table_is_the_one_of_the_shared_data(shared: Path) -> None:
    data = json.loads((shared / "data/tensorrt/operators.json").read_text("utf-8"))
    table = operator_table()
    misprints = {"INF64": "INT64", "INT64 BOOL": "INT64 BOOL"}
    assert set(data) == set(table.operators)
    for operator, releases in data.items():
        for release, types in releases.items():
            have = table.lookup(operator, tuple(map(int, release.split("."))))  # type: ignore[arg-type]
            wanted = None if types is None else {t for kind in types for t in misprints.get(kind, kind).split()}
            assert have == wanted, (operator, release)
    path = Path(sys.modules[operator_table.__module__].__file__ or "").with_name("operators.json")
    assert path.stat().st_size < 20_000


# --- the model as a whole ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [*JETSONS, "onnx"])
def test_the_bundled_model_is_ok_node_by_node_everywhere(target: str) -> None:
    report = check_device(BUNDLED, target)
    assert {finding.verdict for finding in of_nodes(report)} == {OK}
    assert report.counts[OK] == len(of_nodes(report)) == len(onnx.load(BUNDLED).graph.node)
    # opset 17 is too new for the oldest; the open batch needs a profile wherever TensorRT is
    assert report.verdict == {NANO: UNSUPPORTED, "onnx": OK}.get(target, LIMITED)
    modules = {finding.module for finding in of_nodes(report) if finding.op == "Conv"}
    assert all("features" in module or "head" in module for module in modules) and len(modules) > 40


def test_open_sizes_are_limited_with_the_line_that_closes_them() -> None:
    shapes: dict[str, tuple[int, Shape]] = {"x": (FLOAT, ("batch", 3, 8)), "s": (FLOAT, (1, 3, 8))}
    graph = model([helper.make_node("Add", ["x", "s"], ["y"], name="n")], shapes)
    report = check_device(graph, JP51)
    assert [(f.node, f.verdict) for f in report.findings] == [("", LIMITED), ("n", OK)]
    assert "--minShapes=x:1x3x8" in report.problems[0].hint and "s:" not in report.problems[0].hint
    assert check_device(graph, "onnx").verdict == OK
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1  # as some exporters write it
    assert "x:1x3x8" in check_device(graph, JP51).problems[0].hint


@pytest.mark.parametrize(
    ("kind", "target", "expected"),
    [
        (UINT8, NANO, UNSUPPORTED),
        (UINT8, JP51, OK),
        (TensorProto.DOUBLE, JP62, LIMITED),
        (INT64, JP60, LIMITED),  # bound as int32
        (INT64, JP62, OK),
        (TensorProto.STRING, JP62, UNSUPPORTED),
        (TensorProto.COMPLEX64, JP62, UNSUPPORTED),
    ],
)
def test_an_input_of_a_type_the_engine_cannot_bind_is_told(kind: int, target: str, expected: str) -> None:
    graph = model([helper.make_node("Shape", ["x"], ["y"])], {"x": (kind, (4,))})
    of_model = [finding.verdict for finding in check_device(graph, target).findings if not finding.op]
    assert (of_model or [OK]) == [expected]


def test_sequences_and_optionals_are_unsupported() -> None:
    graph = model([helper.make_node("SequenceAt", ["q", "i"], ["y"])], {"i": (INT64, ())})
    graph.graph.input.append(helper.make_tensor_sequence_value_info("q", FLOAT, None))
    reasons = [finding.reason for finding in check_device(graph, JP62).problems]
    assert any("sequence" in reason for reason in reasons) and len(reasons) == 2


@pytest.mark.parametrize(
    ("ir", "target", "fits"), [(9, JP51, False), (9, "onnx", True), (10, JP62, True), (11, JP62, False)]
)
def test_a_file_format_newer_than_the_device_reads_is_refused(ir: int, target: str, fits: bool) -> None:
    report = check_device(model([helper.make_node("Relu", ["x"], ["y"])], MATRIX, ir=ir), target)
    assert (report.verdict == OK) is fits
    assert fits or f"IR {ir}" in report.problems[0].reason


def test_weights_beside_the_file_are_not_read_but_asked_for(tmp_path: Path) -> None:
    weight = const("w", np.zeros((64, 64)), np.float32)
    graph = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (FLOAT, (1, 64))}, weight)
    onnx.save(graph, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    report = check_device(tmp_path / "m.onnx", JP51)
    assert report.verdict == LIMITED and "m.data" in report.problems[0].reason
    (tmp_path / "m.data").unlink()
    report = check_device(tmp_path / "m.onnx", JP51)
    assert report.verdict == UNSUPPORTED and "not beside" in report.problems[0].reason
    outside = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    outside.graph.initializer[0].external_data[0].value = "../../etc/passwd"
    assert "outside" in check_device(outside, JP51).problems[0].reason


def test_operators_of_another_set_are_unsupported_and_microsofts_run_in_their_own_runtime() -> None:
    graph = model([helper.make_node("FusedConv", ["x"], ["y"], name="n", domain="com.microsoft")], MATRIX)
    graph.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert verdict(graph, JP62) == (UNSUPPORTED, "an operator of `com.microsoft`, not of ONNX")
    assert verdict(graph, "onnx")[0] == LIMITED
    graph.graph.node[0].domain = "org.pytorch.aten"
    assert verdict(graph, "onnx")[0] == UNSUPPORTED
    graph.graph.node[0].domain = "trt.plugins"
    assert verdict(graph, JP62)[0] == LIMITED


# --- inside -------------------------------------------------------------------------------------------------------------


def test_quantised_weights_count_as_constant_and_constant_nodes_as_initializers() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], name="d"),
        helper.make_node("Conv", ["x", "w"], ["c"], name="n"),
        helper.make_node("Constant", [], ["k"], value_ints=[3]),
        helper.make_node("TopK", ["c", "k"], ["y", "i"], name="t"),
    ]
    weight = const("q", np.zeros((4, 4, 3, 3)), np.int8)
    graph = model(nodes, PICTURE, weight, QDQ_SCALE, const("z", 0, np.int8))
    assert check_device(graph, NANO).verdict == OK


def test_types_and_ranks_are_inferred_through_the_graph() -> None:
    """Our exports carry no types between nodes: a volume is still seen to be one behind a convolution."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="c"),
        helper.make_node("GridSample", ["c", "g"], ["y"], name="n", mode="bilinear"),
    ]
    inputs: dict[str, tuple[int, Shape]] = {"x": (FLOAT, (1, 1, 8, 8, 8)), "g": (FLOAT, ())}
    graph = model(nodes, inputs, const("w", np.zeros((2, 1, 3, 3, 3)), np.float32), opset=20, ir=9)
    graph.graph.input[1].type.tensor_type.ClearField("shape")
    assert verdict(graph, JP62)[0] == UNSUPPORTED


@pytest.mark.parametrize("graph", [BUNDLED, *(graph for graph, _ in RULES.values())])
def test_what_is_inferred_agrees_with_onnxs_own_inference(graph: Path | onnx.ModelProto) -> None:
    graph = onnx.load(graph) if isinstance(graph, Path) else graph
    found = {name: value for visit in walk(graph, (8, 6)) for name, value in visit.site.values.items()}
    inferred = onnx.shape_inference.infer_shapes(graph)
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        tensor, have = value.type.tensor_type, found.get(value.name, UNKNOWN)
        if have.type and tensor.elem_type:
            assert have.type == tensor.elem_type, value.name
        if have.rank is not None and tensor.HasField("shape"):
            assert have.rank == len(tensor.shape.dim), value.name
    if len(graph.graph.node) > 100:  # and little stays unknown
        known = [found[name] for node in graph.graph.node for name in node.output]
        assert all(value.type and value.rank is not None for value in known)


@pytest.mark.parametrize("target", [JP60, JP62])
def test_the_bodies_of_loops_and_branches_are_walked(target: str) -> None:
    scatter = helper.make_node("ScatterND", ["x", "at", "new"], ["t"], name="inner", reduction="add")
    then = helper.make_graph([scatter], "then", [], [onnx.ValueInfoProto(name="t")])
    other = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["e"], name="r")], "else", [], [onnx.ValueInfoProto(name="e")]
    )
    nodes = [helper.make_node("If", ["c"], ["y"], name="if", then_branch=then, else_branch=other)]
    graph = model(nodes, SCATTER_ND | {"c": (TensorProto.BOOL, ())}, opset=16)
    found = {finding.node: finding.verdict for finding in of_nodes(check_device(graph, target))}
    assert found == {"if": LIMITED, "if/inner": SILENT if target == JP60 else UNSUPPORTED, "if/r": OK}


def scatter_function(name: str, calls: Sequence[str] = ()) -> onnx.FunctionProto:
    node = helper.make_node("ScatterElements", ["a", "b", "c"], ["d"], name="inner")
    node.attribute.append(onnx.AttributeProto(name="reduction", type=onnx.AttributeProto.STRING, ref_attr_name="how"))
    more = [helper.make_node(call, ["a", "b", "c"], [f"o{i}"], domain="own") for i, call in enumerate(calls)]
    sets = [helper.make_opsetid("", 16), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, ["a", "b", "c"], ["d"], [node, *more], sets, ["how"])


def calling(*functions: onnx.FunctionProto, **attributes: Any) -> onnx.ModelProto:
    node = helper.make_node(functions[0].name, TO_SCATTER, ["y"], name="call", domain="own", **attributes)
    graph = model([node], SCATTER, opset=16, functions=list(functions))
    graph.opset_import.append(helper.make_opsetid("own", 1))
    return graph


@pytest.mark.parametrize(("how", "expected"), [("add", LIMITED), ("none", OK)])
def test_functions_of_the_model_are_looked_into_with_the_attributes_of_the_call(how: str, expected: str) -> None:
    graph = calling(scatter_function("put"), how=how)
    found = {finding.node: finding.verdict for finding in of_nodes(check_device(graph, JP62))}
    assert found == {"call": OK, "call/inner": expected}
    assert verdict(graph, JP60, "call")[0] == UNSUPPORTED  # local functions came with 9.0
    assert check_device(graph, "onnx").verdict == OK


def test_functions_that_never_end_are_refused() -> None:
    with pytest.raises(ModelFileError, match="calls itself"):
        check_device(calling(scatter_function("put", ["put"])), JP62)
    doubling = [scatter_function(f"f{i}", [f"f{i + 1}"] * 3) for i in range(20)]
    with pytest.raises(ModelFileError, match="more than 500000 nodes"):
        check_device(calling(*doubling, scatter_function("f20")), JP62)


@pytest.mark.parametrize(
    ("change", "module"),
    [
        ({"metadata": "['', 'backbone', 'backbone.conv', 'conv2d']"}, "backbone.conv"),
        ({"name": "/backbone/backbone.0/conv/Relu"}, "backbone.0.conv"),
        ({"name": "node_1", "output": "/head/fc/Relu_output_0"}, "head.fc"),
        ({"name": "node_1"}, ""),
    ],
)
def test_the_module_is_read_from_what_the_exporter_left(change: dict[str, str], module: str) -> None:
    node = helper.make_node("Relu", ["x"], [change.get("output", "y")], name=change.get("name", "n"))
    if "metadata" in change:
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=change["metadata"])
    assert of_nodes(check_device(model([node], MATRIX), JP51))[0].module == module


# --- the report and the command ----------------------------------------------------------------------------------------


def two_scatters(path: Path) -> Path:
    nodes = [
        helper.make_node("ScatterElements", TO_SCATTER, ["a"], name="/pool/first", reduction="add"),
        helper.make_node("ScatterElements", ["a", "at", "new"], ["b"], name="/pool/second", reduction="add"),
        helper.make_node("Relu", ["b"], ["y"], name="/act/Relu"),
    ]
    onnx.save(model(nodes, SCATTER, opset=16), path)
    return path


def test_equal_findings_are_one_group_and_ok_nodes_one_line(tmp_path: Path) -> None:
    report = check_device(two_scatters(tmp_path / "m.onnx"), JP51)
    text = str(report)
    assert text.count("reduction=add is not read") == 1 and "2 ScatterElements" in text
    assert "/pool/first, /pool/second" in text and "in module pool" in text and "1 nodes: 1 Relu" in text
    assert "predicted" in text and report.table in text
    assert report.counts == {OK: 1, LIMITED: 0, SILENT: 2, UNSUPPORTED: 0}
    assert "newer than the table" in str(check_device(BUNDLED, JP62)) and "newer" not in text


def test_a_name_that_would_steer_the_terminal_does_not() -> None:
    node = helper.make_node("Unique", ["x"], ["y"], name="\x1b[2Jn")
    assert "\x1b" not in str(check_device(model([node], MATRIX), JP51))


@pytest.mark.parametrize(("target", "code"), [(JP51, 1), (JP62, 0), ("onnx", 0)])
def test_the_exit_code_is_1_where_something_is_wrong(
    target: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(two_scatters(tmp_path / "m.onnx"))
    assert main(["jetson-check", path, "--target", target]) == code
    assert main(["jetson-check", path, "--target", target, "--json"]) == code
    line = capsys.readouterr().out.splitlines()[-1]
    data = json.loads(line)
    assert data["target"] == target and data["predicted"] is True
    assert [finding["op"] for finding in data["findings"] if finding["op"]] == ["ScatterElements"] * 2 + ["Relu"]
    assert set(data["findings"][0]) == {"node", "op", "verdict", "module", "reason", "hint"}


def test_an_unknown_target_is_wrong_use_and_a_near_one_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jetson-check", str(BUNDLED), "--target", "jetson_nano"]) == 2
    assert "did you mean 'jetson-nano'?" in capsys.readouterr().err
    with pytest.raises(InputError):
        check_device(BUNDLED, "")
    with pytest.raises(DTypeError):
        check_device(7, JP51)  # type: ignore[arg-type]


# --- files that are no model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "is empty"), (b"\x00" * 64, "no ONNX file|no graph"), (b"PK\x03\x04 a zip", "no ONNX file|no graph")],
)
def test_what_is_no_model_is_refused_by_name(data: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=reason):
        check_device(path, JP51)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="is a folder"):
        check_device(tmp_path, JP51)
    with pytest.raises(ModelFileError, match="there is no file"):
        check_device(tmp_path / "m.onnx", JP51)
    with pytest.raises(ModelFileError, match="no graph"):
        check_device(onnx.ModelProto(), JP51)


def test_without_onnx_the_line_that_installs_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match=r"effvision\[onnx\]"):
        check_device(BUNDLED, JP51)


def survives(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    for target in (NANO, JP72, "onnx"):
        try:
            report = check_device(path, target)
        except EffvisionError:
            continue
        str(report)
        json.dumps(report.to_dict())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.binary(max_size=400))
def test_random_bytes_never_raise_anything_else(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    survives(data, tmp_path_factory.getbasetemp() / "random.onnx")


def test_a_file_cut_anywhere_never_raises_anything_else(tmp_path: Path) -> None:
    data = BUNDLED.read_bytes()
    cuts = random.Random(0)
    for end in [*(cuts.randrange(len(data)) for _ in range(12)), *(cuts.randrange(2000) for _ in range(30))]:
        survives(data[:end], tmp_path / "m.onnx")


def test_an_equation_that_sends_onnx_itself_into_an_endless_loop_ends_here() -> None:
    assert check_device(one("Einsum", ["x"], MATRIX, equation="...i-\u00e7...i"), JP60).verdict == UNSUPPORTED


def test_a_damaged_file_never_raises_anything_else(tmp_path: Path) -> None:
    graphs = [RULES[name][0] for name in ("top k", "quantize", "resize axes", "einsum")] + [
        calling(scatter_function("f"))
    ]
    damage = random.Random(0)
    for graph in graphs:
        data = graph.SerializeToString()
        for _ in range(60):
            broken = bytearray(data)
            for _ in range(damage.randrange(1, 6)):
                broken[damage.randrange(len(broken))] = damage.randrange(256)
            survives(bytes(broken), tmp_path / "m.onnx")


@pytest.mark.alone
def test_100_megabytes_take_less_than_a_second(tmp_path: Path) -> None:
    weights = [const(f"w{i}", np.ones((1024, 1024)), np.float32) for i in range(25)]
    nodes = [helper.make_node("MatMul", [f"y{i}" if i else "x", f"w{i}"], [f"y{i + 1}"]) for i in range(25)]
    path = tmp_path / "large.onnx"
    onnx.save(model(nodes, {"x": (FLOAT, (1, 1024))}, *weights), path)
    assert path.stat().st_size > 100_000_000

    def check() -> None:
        started = time.perf_counter()
        assert check_device(path, JP62).verdict == OK
        assert time.perf_counter() - started < 1  # 0.1 s on an idle machine

    best_of_three(check)
