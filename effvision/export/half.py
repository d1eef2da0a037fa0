"""From a checked float32 graph to float16, for GPUs; inputs, outputs and states stay float32.

TensorRT up to 10 can halve a float32 graph itself (`build_engine.sh` asks it to); TensorRT 11 takes the precision from the
file, and ONNX Runtime's CUDA provider always did. On a processor float16 is slower than float32.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from onnx import ModelProto

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
            half: ModelProto = converter.convert_float_to_float16(copy_of(model), keep_io_types=True)
        except Exception as error:  # the library raises kinds of its own
            raise ExportError(f"ONNX Runtime's converter cannot halve this graph: {error}") from error
    tidy(half, like=model)
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


def _largest(model: ModelProto, spec: GraphSpec, streams: list[Stream]) -> tuple[str, float]:
    """Return the tensor with the largest number in float32, and the number.

    ONNX Runtime widens float16 to float32 on most processors, so an overflow does not show in the comparison.
    """
    shown = showing(model, sorted(float_tensors(model)))
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
