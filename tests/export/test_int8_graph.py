"""Int8 graphs, form by form: made by hand, quantised, and compared with arithmetic written out here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from effvision.export.int8_graph import find_form, int8_layers, quantise, ranged_tensors
from effvision.export.precision import FORMS, Form

FLOAT = TensorProto.FLOAT
Shapes = Mapping[str, tuple[int | str, ...]]


def graph(
    nodes: list[NodeProto], inputs: Shapes, outputs: Shapes, weights: Mapping[str, np.ndarray], opset: int = 17
) -> ModelProto:
    def values(shapes: Shapes) -> list[Any]:
        return [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in shapes.items()]

    held = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    made = helper.make_graph(nodes, "g", values(inputs), values(outputs), held)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    """Channels of very different size: one scale for all of them would lose the small ones."""
    values = np.random.default_rng(seed).normal(0, 0.3, shape)
    return (values * np.geomspace(1, 0.01, shape[0]).reshape(-1, *[1] * (len(shape) - 1))).astype(np.float32)


def bias(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + 100).normal(0, 0.1, size).astype(np.float32)


def stream(seed: int = 0) -> ModelProto:
    """A step with a state: a convolution, half a shift in time, a residual, a pool and a classifier."""
    node = helper.make_node
    nodes = [
        node("Conv", ["frame", "w0", "b0"], ["c0"], name="first", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Relu", ["c0"], ["r0"], name="relu"),
        node("Slice", ["r0", "zero", "two", "one"], ["kept"], name="old"),
        node("Slice", ["r0", "two", "four", "one"], ["rest"], name="now"),
        node("Concat", ["state_in", "rest"], ["shifted"], name="shift", axis=1),
        node("Conv", ["shifted", "w1"], ["c1"], name="second", kernel_shape=[1, 1]),
        node("Add", ["c1", "r0"], ["sum"], name="residual"),
        node("Conv", ["sum", "w2", "b2"], ["c2"], name="third", kernel_shape=[3, 3], group=4),
        node("GlobalAveragePool", ["c2"], ["p"], name="pool"),
        node("Flatten", ["p"], ["f"], name="flat"),
        node("Gemm", ["f", "w3", "b3"], ["logits"], name="classifier", transB=1),
        node("Identity", ["kept"], ["state_out"], name="keep"),
    ]
    weights = {
        "w0": weight(4, 3, 3, 3, seed=seed), "b0": bias(4), "w1": weight(4, 4, 1, 1, seed=seed + 1),
        "w2": weight(4, 1, 3, 3, seed=seed + 2), "b2": bias(4, 2), "w3": weight(5, 4, seed=seed + 3), "b3": bias(5, 3),
    }  # fmt: skip
    weights |= {name: np.array([value], np.int64) for name, value in {"zero": 0, "one": 1, "two": 2, "four": 4}.items()}
    inputs: Shapes = {"frame": (1, 3, 8, 8), "state_in": (1, 2, 8, 8)}
    return graph(nodes, inputs, {"logits": (1, 5), "state_out": (1, 2, 8, 8)}, weights)


def feeds(model: ModelProto, count: int = 12) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(7)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    return [{n: rng.normal(0.3, 1, shape).astype(np.float32) for n, shape in shapes.items()} for _ in range(count)]


def session(model: ModelProto, *, fuse: bool = False) -> Any:
    """Fused, ONNX Runtime computes on integers; unfused, on floats with every pair done as the format says."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    if not fuse:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def everything(model: ModelProto, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    shown = ModelProto()
    shown.CopyFrom(model)
    there = {value.name for value in shown.graph.output}
    extra = [name for node in model.graph.node for name in node.output if name and name not in there]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra)
    run = session(shown)
    return {**feed, **dict(zip([o.name for o in run.get_outputs()], run.run(None, feed), strict=True))}


def ranges_of(model: ModelProto, form: Form) -> dict[str, tuple[float, float]]:
    found: dict[str, tuple[float, float]] = {}
    seen = [everything(model, feed) for feed in feeds(model)]
    for name in ranged_tensors(model):
        low = min(0.0, *(float(step[name].min()) for step in seen))
        high = max(1e-6, *(float(step[name].max()) for step in seen))
        reach = max(-low, high)
        found[name] = (-reach, reach) if form == "tensorrt" else (low, high)
    return found


def made(model: ModelProto, form: Form, layers: list[str] | None = None) -> ModelProto:
    every = int8_layers(model)
    quantised = quantise(model, ranges_of(model, form), every if layers is None else layers, form)
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


def types(model: ModelProto) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def pairs(model: ModelProto, kind: str) -> list[NodeProto]:
    return [node for node in model.graph.node if node.op_type == kind]


def giver(model: ModelProto, name: str) -> NodeProto | None:
    return next((node for node in model.graph.node if name in node.output), None)


# --- arithmetic, written out ------------------------------------------------------------------------------------------------


def rounded(values: torch.Tensor, limits: tuple[float, float], form: Form) -> torch.Tensor:
    low, high = limits
    if form == "tensorrt":
        scale, zero, least, most = high / 127, 0, -128, 127
    else:
        scale, least, most = (high - low) / 255, 0, 255
        zero = round(-low / scale)
    return (torch.clamp(torch.round(values / scale) + zero, least, most) - zero) * scale


def rounded_weight(values: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    tensor = torch.tensor(values).double()
    scale = tensor.flatten(1).abs().amax(1) / 127
    shape = (-1, *[1] * (tensor.ndim - 1))
    return torch.round(tensor / scale.reshape(shape)) * scale.reshape(shape), scale


def wanted(model: ModelProto, feed: Mapping[str, np.ndarray], form: Form) -> np.ndarray:
    """`stream` with every number that an int8 kernel would see rounded to one of 256."""
    ranges, weights = ranges_of(model, form), {name: numpy_helper.to_array(t) for name, t in types(model).items()}
    cpu = form == "cpu"

    def act(values: torch.Tensor, name: str, *, there: bool = True) -> torch.Tensor:
        return rounded(values, ranges[name], form) if there else values

    def layer(values: torch.Tensor, kernel: str, offset: str | None, name: str, **options: Any) -> torch.Tensor:
        values = act(values, name)
        kernel_values, scale = rounded_weight(weights[kernel])
        added = None if offset is None else torch.tensor(weights[offset]).double()
        if added is not None and cpu:
            low, high = ranges[name]
            step = scale * (high - low) / 255
            added = torch.round(added / step) * step
        if kernel == "w3":
            return values @ kernel_values.T + added
        return torch.nn.functional.conv2d(values, kernel_values, added, **options)

    frame, state = (torch.from_numpy(feed[name]).double() for name in ("frame", "state_in"))
    r0 = act(torch.relu(layer(frame, "w0", "b0", "frame", padding=1)), "r0", there=cpu)
    rest = r0[:, 2:]
    shifted = torch.cat([act(state, "state_in", there=cpu), act(rest, "rest", there=cpu)], 1)
    c1 = act(layer(shifted, "w1", None, "shifted"), "c1", there=cpu)
    c2 = act(layer(act(c1 + r0, "sum", there=cpu), "w2", "b2", "sum", groups=4), "c2", there=cpu)
    p = act(c2.mean((2, 3)), "p", there=cpu)
    return act(layer(p, "w3", "b3", "f"), "logits", there=cpu).numpy()


def adds_exactly() -> bool:
    """Whether ONNX Runtime's fused kernels keep every sum: x86 without VNNI adds pairs of products in 16 bits, which overflow.

    An export for processors measures what that costs on the machine at hand, and is refused where it costs too much.
    """
    path = Path("/proc/cpuinfo")
    flags = path.read_text("utf-8").split() if path.is_file() else []
    return "avx2" not in flags or "avx512_vnni" in flags or "avx_vnni" in flags


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(3))
def test_a_quantised_step_gives_what_the_arithmetic_gives(form: Form, seed: int) -> None:
    model = stream(seed)
    quantised = made(model, form)
    exact, fused, plain = session(quantised), session(quantised, fuse=True), session(model)
    low, high = ranges_of(model, form)["logits"]
    step = (high - low) / 255
    errors = []
    for feed in feeds(model):
        logits, state = exact.run(None, feed)
        assert np.abs(logits - wanted(model, feed, form)).max() <= 1.01 * step
        if form != "cpu" or adds_exactly():
            assert np.abs(fused.run(None, feed)[0] - logits).mean() <= 1.01 * step
        assert state.dtype == np.float32
        errors.append(np.abs(logits - plain.run(None, feed)[0]).max())
    assert 0 < max(errors) < 0.15 * (high - low), "it has to be rounded, and not far off"


def test_the_form_for_processors_is_unsigned_activations_and_a_scale_per_output_channel() -> None:
    model = stream()
    quantised, held = made(model, "cpu"), types(made(model, "cpu"))
    assert find_form(quantised) == "cpu"
    assert {held[node.input[2]].data_type for node in pairs(quantised, "QuantizeLinear")} == {TensorProto.UINT8}
    for name, kernel in (("first", "w0"), ("second", "w1"), ("third", "w2"), ("classifier", "w3")):
        layer = next(node for node in quantised.graph.node if node.name == name)
        inputs = [giver(quantised, given) for given in layer.input]
        assert all(node is not None and node.op_type == "DequantizeLinear" for node in inputs)
        weights = inputs[1]
        assert weights is not None and held[weights.input[0]].data_type == TensorProto.INT8
        scales, zeros = (numpy_helper.to_array(held[weights.input[place]]) for place in (1, 2))
        given = numpy_helper.to_array(types(model)[kernel])
        np.testing.assert_allclose(scales, np.abs(given.reshape(len(given), -1)).max(1) / 127, rtol=1e-5)
        assert not zeros.any() and zeros.dtype == np.int8
        restored = numpy_helper.to_array(held[weights.input[0]]) * scales.reshape(-1, *[1] * (given.ndim - 1))
        assert np.abs(restored - given).max() <= scales.max() / 2 * 1.001
        if len(inputs) == 3:
            assert inputs[2] is not None and held[inputs[2].input[0]].data_type == TensorProto.INT32
    assert not {"w0", "b0", "w1", "w2", "w3"} & set(held), "the float weights are gone"


def test_the_form_for_tensorrt_is_int8_around_zero_before_weighted_layers_only() -> None:
    model = stream()
    quantised, held = made(model, "tensorrt"), types(made(model, "tensorrt"))
    assert find_form(quantised) == "tensorrt"
    for node in (*pairs(quantised, "QuantizeLinear"), *pairs(quantised, "DequantizeLinear")):
        zeros = numpy_helper.to_array(held[node.input[2]])
        assert zeros.dtype == np.int8 and not zeros.any()
    assert TensorProto.INT32 not in {tensor.data_type for tensor in quantised.graph.initializer}
    assert all(held[name].data_type == FLOAT for name in ("w0", "b0", "w1", "w2", "b2", "w3", "b3"))
    weighted = {"Conv", "Gemm"}
    for node in pairs(quantised, "DequantizeLinear"):
        takers = [taker for taker in quantised.graph.node if node.output[0] in taker.input]
        assert len(takers) == 1 and takers[0].op_type in weighted
        assert list(takers[0].input).index(node.output[0]) < 2
    assert len(pairs(quantised, "DequantizeLinear")) == 2 * 4
    assert {n.op_type for n in model.graph.node} <= {n.op_type for n in quantised.graph.node}, "ReLU stays"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("opset", [13, 15, 17])
def test_opset_format_names_and_float_ends_stay(form: Form, opset: int) -> None:
    model = stream()
    model.opset_import[0].version = opset
    model.producer_name = "effvision"
    before = model.SerializeToString(deterministic=True)
    quantised = made(model, form)
    assert [(entry.domain, entry.version) for entry in quantised.opset_import] == [("", opset)]
    assert quantised.ir_version == 8 and quantised.producer_name == "effvision" and not quantised.producer_version
    assert quantised.graph.input == model.graph.input and quantised.graph.output == model.graph.output
    assert not quantised.graph.value_info and not any(node.doc_string for node in quantised.graph.node)
    assert {node.domain for node in quantised.graph.node} <= {"", "ai.onnx"}
    if form == "tensorrt":
        assert all(giver(quantised, o.name).op_type in ("Gemm", "Identity") for o in quantised.graph.output)  # type: ignore[union-attr]
    assert model.SerializeToString(deterministic=True) == before, "what was given is not changed"


@pytest.mark.parametrize("form", FORMS)
def test_a_layer_that_is_left_out_stays_as_it_was(form: Form) -> None:
    model = stream()
    quantised = made(model, form, ["first", "second", "classifier"])
    left = next(node for node in quantised.graph.node if node.name == "third")
    assert list(left.input[1:]) == ["w2", "b2"]
    assert types(quantised)["w2"] == types(model)["w2"] and types(quantised)["b2"] == types(model)["b2"]
    assert not any("w2" in node.input[0] for node in pairs(quantised, "DequantizeLinear"))
    alone = made(model, form, ["third"])
    assert len(pairs(alone, "QuantizeLinear")) == 2, "activation in and out, or activation and weight"


@pytest.mark.parametrize("form", FORMS)
def test_no_layer_at_all_is_the_float_graph(form: Form) -> None:
    model = stream()
    quantised = made(model, form, [])
    assert find_form(quantised) is None
    for feed in feeds(model, 2):
        np.testing.assert_array_equal(session(quantised).run(None, feed)[0], session(model).run(None, feed)[0])


def one(operator: str, *, shared: bool = False) -> ModelProto:
    """One layer of a kind without a bias, or two with the same weight and bias; nothing has a name."""
    node = helper.make_node
    shape: tuple[int, ...] = (1, 4, 6, 6) if operator.startswith("Conv") else (3, 4)
    last = {"Conv": (1, 4, 6, 6), "ConvTranspose": (1, 4, 6, 6)}.get(operator, (3, 4))
    kernel = np.random.default_rng(0).normal(0, 1, (4, 4, 1, 1) if operator.startswith("Conv") else (4, 4))
    given = ["w"] if operator == "MatMul" or not shared else ["w", "b"]
    nodes = [node(operator, ["x", *given], ["y" if not shared else "m"])]
    if shared:
        nodes.append(node(operator, ["m", *given], ["y"]))
    return graph(nodes, {"x": shape}, {"y": last}, {"w": kernel.astype(np.float32), "b": 20 * bias(4)})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose", "Gemm", "MatMul"])
def test_every_kind_of_layer_is_quantised_with_and_without_company(operator: str, shared: bool, form: Form) -> None:
    model = one(operator, shared=shared)
    layers = int8_layers(model)
    assert layers == [f"{operator}_{place}" for place in range(1 + shared)]
    quantised = made(model, form)
    for feed in feeds(model, 4):
        plain = session(model).run(None, feed)[0]
        got = session(quantised).run(None, feed)[0]
        assert 0 < np.abs(got - plain).max() < 0.04 * np.abs(plain).max()
    if shared:  # the other one keeps the float weight
        alone = made(model, form, layers[:1])
        second = next(node for node in alone.graph.node if node.name == layers[1])
        for mine, given in zip(second.input[1:], model.graph.node[1].input[1:], strict=True):
            np.testing.assert_array_equal(
                *(numpy_helper.to_array(t) for t in (types(alone)[mine], types(model)[given]))
            )
    scales = [t for n, t in types(quantised).items() if n.startswith("w") and "scale" in n]
    assert [list(tensor.dims) for tensor in scales] == [[4]], "per output channel"


def test_names_are_given_where_there_are_none_and_never_twice() -> None:
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["a"], name="Conv_1"),
        node("Conv", ["a", "w"], ["b"]),
        node("Conv", ["b", "w"], ["y"]),
    ]
    model = graph(nodes, {"x": (1, 4, 6, 6)}, {"y": (1, 4, 6, 6)}, {"w": weight(4, 4, 1, 1)})
    layers = int8_layers(model)
    assert len(set(layers)) == 3 and layers[0] == "Conv_1" and int8_layers(model) == layers
    assert len(pairs(made(model, "tensorrt", layers[1:2]), "QuantizeLinear")) == 2


def test_only_constant_float_weights_count_and_only_float_numbers_have_ranges() -> None:
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "y"], ["a"], name="of two inputs"),
        node("Conv", ["i", "w"], ["c"], name="layer"),
        node("Shape", ["c"], ["shape"]),
        node("Mul", ["shape", "one"], ["same"], name="of a shape"),
        node("Concat", ["same"], ["joined"], name="of shapes", axis=0),
        node("Reshape", ["c", "joined"], ["r"]),
        node("Conv", ["r", "w"], ["o"], name="another"),
    ]
    weights = {"w": weight(4, 4, 1, 1), "one": np.array(1, np.int64)}
    inputs: Shapes = {"x": (2, 2), "y": (2, 2), "i": ("batch", 4, 6, 6)}
    model = graph(nodes, inputs, {"o": ("batch", 4, "h", "w"), "a": (2, 2)}, weights)
    assert int8_layers(model) == ["layer", "another"]
    assert set(ranged_tensors(model)) == {"x", "y", "a", "i", "c", "r", "o"}
    ranges = {name: (-3.0, 3.0) for name in ranged_tensors(model)}
    for form in FORMS:
        quantised = quantise(model, ranges, ["layer", "another"], form)
        feed = {"x": np.eye(2, dtype=np.float32), "y": np.eye(2, dtype=np.float32)}
        feed["i"] = np.random.default_rng(0).normal(0, 1, (2, 4, 6, 6)).astype(np.float32)
        assert np.abs(session(quantised).run(["o"], feed)[0] - session(model).run(["o"], feed)[0]).max() < 0.1
