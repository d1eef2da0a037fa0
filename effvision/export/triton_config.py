"""The description of a model that NVIDIA Triton reads, `config.pbtxt`: written from the graph itself.

The form is the text form of Triton's `ModelConfig` (triton-inference-server/common, `model_config.proto`); states are what its
guide calls implicit state: Triton keeps them, one for each sequence, and hands them to the graph by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from effvision.errors import ExportError
from effvision.metadata import KEY, GraphSpec, Metadata

__all__ = ["IDLE_S", "KEPT", "STREAMS", "config_text"]

STREAMS = 32
"""Streams (or clouds) that go through the network in one call at most."""
KEPT = 1024
"""Streams whose state is kept at once at most; more wait until one ends."""
IDLE_S = 10
"""Seconds of silence after which a stream's state is dropped."""

_STREAM_AXIS = "batch"
_NUMBERS = {1: "TYPE_FP32", 2: "TYPE_UINT8", 6: "TYPE_INT32", 7: "TYPE_INT64", 9: "TYPE_BOOL", 10: "TYPE_FP16"}
"""Of `onnx.TensorProto.DataType`."""


@dataclass(frozen=True)
class _Tensor:
    """An input or output of the graph: its name, its kind of numbers as Triton calls them, its axes."""

    name: str
    kind: str
    shape: tuple[int | str, ...]

    def dims(self, batched: bool) -> str:
        """Return its axes as Triton wants them: without that of the streams, open ones as -1."""
        axes = self.shape[1:] if batched else self.shape
        if not axes:
            raise ExportError(f"`{self.name}` is one number a stream, for which this writer has no form")
        return _listed(axis if isinstance(axis, int) else -1 for axis in axes)


def config_text(model: Any, metadata: Metadata, *, name: str) -> str:
    """Return the text of `config.pbtxt` for a model of one graph.

    The axis of the streams, the first of every tensor, is left out of all shapes, as Triton wants it for models that take
    several at a time. Of a model without such an axis Triton hands on each request as it is.

    Args:
        model: The `onnx.ModelProto` that was written.
        metadata: It carries; the clients read it from there.
        name: Of the model's folder.

    Raises:
        ExportError: the graph is not what the metadata say, or Triton would mix up its states.
    """
    (spec,) = metadata.graphs.values()
    inputs, outputs = _tensors(model.graph.input), _tensors(model.graph.output)
    _check(spec, inputs, outputs)
    batched = all(tensor.shape[:1] == (_STREAM_AXIS,) for tensor in (*inputs.values(), *outputs.values()))
    if spec.states and not batched:
        raise ExportError("its state has no open axis of streams, so one call cannot carry several")
    lines = [
        f"name: {_quoted(name)}",
        'backend: "onnxruntime"',
        'default_model_filename: "model.onnx"',
        f"max_batch_size: {STREAMS if batched else 0}",
    ]
    for tensor in spec.inputs:
        lines += _block("input", _described(inputs[tensor.name], batched))
    for place, tensor in enumerate(spec.outputs):
        labels = ['label_filename: "labels.txt"'] if place == 0 and metadata.task == "classification" else []
        lines += _block("output", [*_described(outputs[tensor.name], batched), *labels])
    if spec.states:
        lines += _block("sequence_batching", _sequences(spec, inputs))
    elif batched:
        lines.append("dynamic_batching { }")
    if metadata.precision.get("int8", {}).get("form") == "cpu":  # its kernels are a processor's
        lines += _block("instance_group", ["count: 1", "kind: KIND_CPU"])
    block = json.dumps(json.loads(metadata.to_json()), sort_keys=True, separators=(",", ":"))  # in ASCII
    value = _block("value", [f"string_value: {_quoted(block)}"])
    lines += _block("parameters", [f"key: {_quoted(KEY)}", *value])
    return "\n".join(lines) + "\n"


def _sequences(spec: GraphSpec, inputs: dict[str, _Tensor]) -> list[str]:
    """Say how streams are told apart, and what is kept of each.

    `oldest`: a call holds whichever streams have a frame, each with its own state. `direct` would give every stream a row of
    its own for as long as it lasts, computed whether it has a frame or not, and keep all others out. No control inputs: Triton
    sets the state to zeros where a sequence starts, so the graph needs not be told.
    """
    lines = [
        f"max_sequence_idle_microseconds: {IDLE_S * 1_000_000}",
        *_block("oldest", [f"max_candidate_sequences: {KEPT}"]),
    ]
    for state in spec.states:
        kept = inputs[state.input]
        form = [f"data_type: {kept.kind}", f"dims: {kept.dims(batched=True)}"]
        zeros = _block("initial_state", [f"name: {_quoted(state.name)}", *form, "zero_data: true"])
        names = [f"input_name: {_quoted(state.input)}", f"output_name: {_quoted(state.output)}"]
        lines += _block("state", [*names, *form, *zeros])
    return lines


def _check(spec: GraphSpec, inputs: dict[str, _Tensor], outputs: dict[str, _Tensor]) -> None:
    """Refuse a graph that is not what its description says, or states that Triton would pair otherwise."""
    said_in = {tensor.name for tensor in spec.inputs} | {state.input for state in spec.states}
    said_out = {tensor.name for tensor in spec.outputs} | {state.output for state in spec.states}
    if (said_in, said_out) != (set(inputs), set(outputs)):
        odd = sorted((said_in ^ set(inputs)) | (said_out ^ set(outputs)))
        raise ExportError(f"the graph and its description name other tensors: {', '.join(odd[:6])}")
    for state in spec.states:
        before, after = inputs[state.input], outputs[state.output]
        if (before.kind, before.shape[1:]) != (after.kind, after.shape[1:]) or state.shape != before.shape[1:]:
            raise ExportError(f"{before} does not become {after}: a state has to keep its shape")
        if state.init != "zeros":
            raise ExportError(f"`{state.input}` begins as {state.init}, not as zeros")
    # its core keeps inputs and outputs of states in two maps ordered by name, and pairs them by their places there
    pairs = sorted((state.input, state.output) for state in spec.states)
    if [output for _, output in pairs] != sorted(output for _, output in pairs):
        raise ExportError(
            "in the alphabet the states' outputs come in another order than their inputs; Triton pairs them so"
        )


def _tensors(values: Iterable[Any]) -> dict[str, _Tensor]:
    found = {}
    for value in values:
        tensor = value.type.tensor_type
        if tensor.elem_type not in _NUMBERS:
            raise ExportError(f"`{value.name}` has numbers of a kind that is not served ({tensor.elem_type})")
        shape = tuple(axis.dim_param or int(axis.dim_value) for axis in tensor.shape.dim)
        found[value.name] = _Tensor(value.name, _NUMBERS[tensor.elem_type], shape)
    return found


def _described(tensor: _Tensor, batched: bool) -> list[str]:
    return [f"name: {_quoted(tensor.name)}", f"data_type: {tensor.kind}", f"dims: {tensor.dims(batched)}"]


def _block(name: str, lines: Sequence[str]) -> list[str]:
    return [f"{name} {{", *(f"  {line}" for line in lines), "}"]


def _listed(numbers: Iterable[int]) -> str:
    return f"[ {', '.join(map(str, numbers))} ]"


def _quoted(text: str) -> str:
    """Return a string of protobuf's text form; it must be ASCII without control characters."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
