"""The two forms of int8 files are told apart, and making one is quiet and repeats to the byte."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from effvision.errors import ExportError, MissingDependencyError
from effvision.export import int8_graph
from effvision.export._graphs import sort_nodes
from effvision.export.int8_graph import check_form, find_form, int8_layers, quantise, ranged_tensors
from effvision.export.precision import FORMS, Form

FLOAT, INT8, UINT8 = TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8


def chain(length: int = 3) -> ModelProto:
    """Convolutions one after the other."""
    rng = np.random.default_rng(0)
    nodes, held = [], []
    for place in range(length):
        nodes.append(helper.make_node("Conv", [f"t{place}", f"w{place}"], [f"t{place + 1}"], name=f"conv{place}"))
        held.append(numpy_helper.from_array(rng.normal(0, 1, (2, 2, 1, 1)).astype(np.float32), f"w{place}"))
    ends = [helper.make_tensor_value_info(name, FLOAT, (1, 2, 4, 4)) for name in ("t0", f"t{length}")]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], held)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def quantised(form: Form) -> ModelProto:
    model = chain()
    low = -4.0 if form == "tensorrt" else -3.0
    return quantise(model, {name: (low, 4.0) for name in ranged_tensors(model)}, int8_layers(model), form)


# --- telling them apart -----------------------------------------------------------------------------------------------------


def edited(model: ModelProto, kind: str, change: Callable[[np.ndarray], np.ndarray]) -> ModelProto:
    """Change the zero point of the first node of a kind, which others may share."""
    node = next(node for node in model.graph.node if node.op_type == kind)
    zero = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[2])
    new = numpy_helper.from_array(change(numpy_helper.to_array(zero)), "edited")
    model.graph.initializer.append(new)
    node.input[2] = "edited"
    return model


def test_each_form_is_recognised_and_is_not_the_other() -> None:
    assert find_form(chain()) is None
    for form, other in (("cpu", "tensorrt"), ("tensorrt", "cpu")):
        assert find_form(quantised(form)) == form  # type: ignore[arg-type]
        check_form(quantised(form), form)  # type: ignore[arg-type]
        with pytest.raises(ExportError):
            check_form(quantised(form), other)  # type: ignore[arg-type]
    for form in FORMS:
        check_form(chain(), form)  # nothing to object to


@pytest.mark.parametrize("kind", ["QuantizeLinear", "DequantizeLinear"])
def test_a_zero_point_that_is_not_zero_is_not_for_tensorrt(kind: str) -> None:
    model = edited(quantised("tensorrt"), kind, lambda zero: zero + np.int8(3))
    with pytest.raises(ExportError, match="mixes quantised forms"):
        find_form(model)
    with pytest.raises(ExportError, match=r"quantises to int8 with a zero point; TensorRT takes int8 around zero"):
        check_form(model, "tensorrt")


def test_an_unsigned_activation_among_signed_ones_is_for_nobody() -> None:
    model = edited(quantised("tensorrt"), "QuantizeLinear", lambda zero: zero.astype(np.uint8))
    with pytest.raises(ExportError, match="mixes quantised forms"):
        find_form(model)
    with pytest.raises(ExportError, match="quantises to uint8"):
        check_form(model, "tensorrt")
    with pytest.raises(ExportError, match="instead of uint8"):
        check_form(model, "cpu")


def test_a_signed_activation_among_unsigned_ones_is_for_nobody() -> None:
    model = edited(quantised("cpu"), "QuantizeLinear", lambda zero: np.zeros(zero.shape, np.int8))
    with pytest.raises(ExportError, match="mixes quantised forms"):
        find_form(model)
    with pytest.raises(ExportError, match="instead of uint8"):
        check_form(model, "cpu")


def test_weights_alone_in_int8_are_neither_form() -> None:
    model = quantised("cpu")
    kept = [node for node in model.graph.node if node.op_type != "QuantizeLinear"]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    with pytest.raises(ExportError, match="mixes quantised forms"):
        find_form(model)
    with pytest.raises(ExportError):
        check_form(model, "cpu")


def test_a_zero_point_left_out_is_that_of_the_type_of_what_is_there() -> None:
    model = quantised("cpu")
    for node in model.graph.node:  # weights: int8; activations: the format's default, uint8
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            del node.input[2]
    assert find_form(model) == "cpu"
    check_form(model, "cpu")
    with pytest.raises(ExportError, match="uint8"):
        check_form(model, "tensorrt")


# --- order ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_every_node_comes_after_those_it_takes_from(form: Form) -> None:
    model = quantised(form)
    known = {v.name for v in model.graph.input} | {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        assert set(node.input) <= known, node.name
        known |= set(node.output)


def test_nodes_in_any_order_are_sorted_and_sorted_ones_stay_as_they_are() -> None:
    model = chain(8)
    before = [node.name for node in model.graph.node]
    sort_nodes(model)
    assert [node.name for node in model.graph.node] == before
    shuffled = list(chain(8).graph.node)
    random.Random(0).shuffle(shuffled)
    del model.graph.node[:]
    model.graph.node.extend(shuffled)
    sort_nodes(model)
    assert [node.name for node in model.graph.node] == before


@pytest.mark.parametrize("given", ["nobody", "t3"])
def test_what_nothing_gives_and_a_circle_are_errors(given: str) -> None:
    model = chain()
    model.graph.node[0].input[0] = given
    with pytest.raises(ExportError, match="`conv0` of the converted graph takes what no other gives"):
        sort_nodes(model)


# --- quiet, and the same again ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_the_same_graph_gives_the_same_bytes_in_other_processes(form: Form) -> None:
    script = (
        "import sys, hashlib; sys.path.insert(0, sys.argv[1]); import test_int8_forms as t\n"
        f"print(hashlib.sha256(t.quantised({form!r}).SerializeToString(deterministic=True)).hexdigest())"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(Path(__file__).parent)]
    done = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2)]
    assert done[0].stdout == done[1].stdout and len(done[0].stdout.strip()) == 64
    assert done[0].stderr == "", "the library's advice stays where it is"
    assert quantised(form).SerializeToString(deterministic=True) == quantised(form).SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_said_and_logging_stays_as_it_was(
    form: Form, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    for handler in handlers:
        root.removeHandler(handler)  # `logging.warning` adds one only where there is none
    try:
        quantised(form)
        assert root.handlers == [] and root.level == level
    finally:
        for handler in handlers:
            root.addHandler(handler)
    assert capfd.readouterr() == ("", "") and not caplog.records


def test_a_range_that_is_missing_is_an_error_in_words_and_leaves_logging_as_it_was() -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    model = chain()
    with pytest.raises(ExportError, match="cannot quantise this graph"):
        quantise(model, {"t0": (-1.0, 1.0)}, int8_layers(model), "cpu")
    assert (list(root.handlers), root.level) == before


def test_a_quantiser_of_another_make_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxruntime.quantization import qdq_quantizer

    class Old:
        def __init__(self, model: object, mode: object) -> None: ...

    monkeypatch.setattr(qdq_quantizer, "QDQQuantizer", Old)
    with pytest.raises(MissingDependencyError, match=r"no quantiser this code can drive\nhint: pip install"):
        quantised("cpu")


def test_a_library_that_gives_the_other_form_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    right = int8_graph._library
    monkeypatch.setattr(int8_graph, "_library", lambda model, ranges, nodes, form: right(model, ranges, nodes, "cpu"))
    with pytest.raises(ExportError, match=r"TensorRT takes int8 around zero only\nhint: pip install -U onnxruntime"):
        quantised("tensorrt")
