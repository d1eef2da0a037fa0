"""From a checked float32 graph to float16, for GPUs; inputs, outputs and states stay float32.

TensorRT up to 10 can halve a float32 graph itself (`build_engine.sh` asks it to); TensorRT 11 takes the precision from the
file, and ONNX Runtime's CUDA provider always did. On a processor float16 is slower than float32.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from effvision._optional import require
from effvision.errors import ExportError
from effvision.export._graphs import copy_of, float_tensors, showing, tidy
from effvision.export._quiet import quiet
from effvision.export.agreement import Stream, agreement
from effvision.metadata import GraphSpec
from effvision.runtime.onnx import open_session

__all__ = ["HalfReport", "make_half"]

_RELATIVE_RMS = 5e-3
_LEAST_SAME = 0.98
_LARGEST = 65504 / 2  # what real pictures reach beyond these is not known


@dataclass(frozen=True)
class HalfReport:
    """A float16 file beside the float32 graph it was made from; both ran here, in ONNX Runtime on a processor.

    It widens float16 to float32 there for most operators, so the figures show what rounding the weights does, and `largest` how
    near the numbers between come to float16's end.

    Attributes:
        same: Answers (the highest output) that equal the float32 graph's, over `answers`.
        answers: See `same`.
        relative_rms: Error of the answers.
        largest: Largest number of any layer in float32.
        float_size: Bytes of the float32 file.
        size: Bytes of this one.
    """

    same: int
    answers: int
    relative_rms: float
    largest: float
    float_size: int
    size: int

    def __str__(self) -> str:
        return (
            f"float16: {self.size / 1e6:.2f} MB instead of {self.float_size / 1e6:.2f} MB, {self.same} of {self.answers} "
            f"answers equal float32's, relative rms error {self.relative_rms:.1e}, largest number {self.largest:.3g} of 65504; "
            "for GPUs, slower than float32 on a processor"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def summary(self) -> dict[str, Any]:
        """Return what the file itself carries."""
        return {"half": self.to_dict()}


def make_half(
    model: ModelProto, spec: GraphSpec, examples: Any, *, steps: int = 32, judged: bool = True
) -> tuple[ModelProto, HalfReport]:
    """Convert a graph and compare it with the float32 one over streams that carry their state.

    Args:
        model: Checked against PyTorch.
        spec: Names of its in- and outputs.
        examples: `Predictor.example_inputs`.
        steps: Of each compared stream.
        judged: Whether the highest of the first output is the answer; else only the numbers are compared.

    Raises:
        ExportError: it cannot be converted, or numbers do not fit into float16.
        MissingDependencyError: the installed ONNX Runtime has no converter.
    """
    require("onnxruntime", extra="onnx")
    converter = require("onnxruntime.transformers.float16", extra="onnx")
    with quiet():  # tiny weights that round to zero are reported one by one; the comparison says whether they matter
        try:
            half: ModelProto = converter.convert_float_to_float16(
                copy_of(model), keep_io_types=True, node_block_list=_kept_float(model)
            )
        except Exception as error:  # the library raises kinds of its own
            raise ExportError(f"ONNX Runtime's converter cannot halve this graph: {error}") from error
    tidy(half, like=model)
    _straighten(half)
    full, halved = (open_session(one.SerializeToString(deterministic=True), spin=False) for one in (model, half))
    batch = spec.inputs[0].shape[0]
    streams = _streams(spec, examples, steps, batch if isinstance(batch, int) else 1)
    name, largest = _largest(model, spec, streams)
    if largest > _LARGEST:
        raise ExportError(
            f"float16 is refused: `{name}` reaches {largest:.3g}, and float16 ends at 65504 (half of it is allowed here)\n"
            "hint: keep float32"
        )
    found = agreement(full, halved, streams, spec)
    report = HalfReport(
        found.same,
        found.answers,
        round(found.relative_rms, 6),
        float(f"{largest:.3g}"),
        model.ByteSize(),
        half.ByteSize(),
    )
    if not found.relative_rms <= _RELATIVE_RMS or (judged and found.share < _LEAST_SAME):  # NaN fails too
        raise ExportError(
            f"float16 is refused: relative rms error {found.relative_rms:.1e} (allowed {_RELATIVE_RMS:.0e}), {found.same} of "
            f"{found.answers} answers equal\nhint: keep float32"
        )
    return half, report


def _kept_float(model: ModelProto) -> list[str]:
    """Return the names of nodes that stay float32: what indices are computed from, and sums of unknown length.

    float16 counts to 2048 and no further, and ONNX Runtime has no scatter that adds in it. Sums of squares whose root is taken
    go beyond it, and a state that is handed on as it came must not be rounded.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    kept, waiting = set(), []
    for node in model.graph.node:
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        if node.op_type in ("ScatterElements", "ScatterND") and attributes.get("reduction", b"none") != b"none":
            kept.add(node.name)
        if node.op_type == "Cast" and attributes["to"] in (TensorProto.INT32, TensorProto.INT64):
            waiting.append(node)
    kept |= _lengths(model) | _handed_on(model)
    while waiting:
        node = waiting.pop()
        kept.add(node.name)
        waiting += [makers[name] for name in node.input if name in makers and makers[name].name not in kept]
    return sorted(kept)


def _lengths(model: ModelProto) -> set[str]:
    """Return the names of nodes between a square and a root that is taken of what became of it, both included."""
    of_squares: set[str] = set()
    for node in model.graph.node:
        squares = node.op_type == "Pow" or (node.op_type == "Mul" and node.input[0] == node.input[1])
        if squares or of_squares & set(node.input):
            of_squares.update(node.output)
    kept: set[str] = set()
    under_root: set[str] = set()
    for node in reversed(model.graph.node):
        rooted = node.op_type == "Sqrt" or bool(under_root & set(node.output))
        if rooted and of_squares & set(node.output):
            kept.add(node.name)
            under_root.update(node.input)
    return kept


def _handed_on(model: ModelProto) -> set[str]:
    """Return the names of nodes that give out either something new or what came into the graph, which stays as it was."""
    given, taken = {output.name for output in model.graph.output}, {value.name for value in model.graph.input}
    return {
        node.name
        for node in model.graph.node
        if node.op_type == "Where" and node.output[0] in given and taken & set(node.input)
    }


def _straighten(half: ModelProto) -> None:
    """Let float32 that was narrowed only to be widened again go straight, in place: the converter rounds between kept nodes."""
    exact = float_tensors(half)
    narrowed = {
        node.output[0]: node.input[0]
        for node in half.graph.node
        if _casts(node, TensorProto.FLOAT16) and node.input[0] in exact
    }
    straight = {
        node.output[0]: narrowed[node.input[0]]
        for node in half.graph.node
        if _casts(node, TensorProto.FLOAT) and node.input[0] in narrowed
    }
    for node in half.graph.node:
        inputs = [straight.get(name, name) for name in node.input]
        del node.input[:]
        node.input.extend(inputs)
    _give_exact(half, straight)
    given = {output.name for output in half.graph.output}
    while True:  # what nobody takes any more
        taken = given | {name for node in half.graph.node for name in node.input}
        kept = [node for node in half.graph.node if node.op_type != "Cast" or set(node.output) & taken]
        if len(kept) == len(half.graph.node):
            return
        copies = [NodeProto.FromString(node.SerializeToString()) for node in kept]
        del half.graph.node[:]
        half.graph.node.extend(copies)


def _give_exact(half: ModelProto, straight: dict[str, str]) -> None:
    """Give out what was float32 before it was narrowed and widened, under the output's name, in place."""
    makers = {name: node for node in half.graph.node for name in node.output}
    for output in half.graph.output:
        exact = straight.get(output.name)
        if exact is None or exact not in makers:
            continue
        makers[output.name].output[0] = f"{output.name}_widened"  # taken by nobody now
        for node in half.graph.node:
            for names in (node.input, node.output):
                renamed = [output.name if name == exact else name for name in names]
                del names[:]
                names.extend(renamed)


def _casts(node: NodeProto, to: int) -> bool:
    return node.op_type == "Cast" and any(each.name == "to" and each.i == to for each in node.attribute)


def _largest(model: ModelProto, spec: GraphSpec, streams: list[Stream]) -> tuple[str, float]:
    """Return the tensor with the largest number among those that become float16, and the number, as float32 has it.

    ONNX Runtime widens float16 to float32 on most processors, so an overflow does not show in the comparison.
    """
    kept = set(_kept_float(model))
    exact = {name for node in model.graph.node if node.name in kept for name in node.output}
    shown = showing(model, sorted(float_tensors(model) - exact))
    session = open_session(shown.SerializeToString(deterministic=True), spin=False)
    names = [output.name for output in session.get_outputs()]
    name, largest = "", 0.0
    for stream in streams:
        state = {one.input: stream[0][one.input] for one in spec.states}
        for feed in stream:
            outputs = dict(zip(names, session.run(None, {**feed, **state}), strict=True))
            state = {one.input: outputs[one.output] for one in spec.states}
            for key, value in outputs.items():
                if value.size and (reach := float(np.abs(value).max())) > largest:
                    name, largest = key, reach
    return name, largest


def _streams(spec: GraphSpec, examples: Any, steps: int, batch: int) -> list[Stream]:
    zeros = {state.input: np.zeros((batch, *state.shape), np.float32) for state in spec.states}
    return [
        [{**inputs, **zeros} for inputs in examples(spec.name, steps=steps, batch=batch, seed=seed)] for seed in (7, 8)
    ]
