"""What quantisation measured, layer by layer and as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from effvision.export.precision import Form, Rule

__all__ = ["Int8Report", "Layer"]

_SHOWN = 5


@dataclass(frozen=True)
class Layer:
    """One convolution or matrix product.

    Attributes:
        name: Of the weight it uses, which says where in the network it is.
        operator: Of ONNX.
        error: Relative rms error of the model's answer when this layer alone computes on int8.
        kept_float: It was left in float.
    """

    name: str
    operator: str
    error: float
    kept_float: bool


@dataclass(frozen=True)
class Int8Report:
    """A quantised model beside the float one it was made from.

    Attributes:
        form: `cpu` or `tensorrt`; a file of one is not for the other.
        rule: How the ranges of the activations were chosen.
        rules: Relative rms error of the answers by each rule that was tried, before any layer was kept in float.
        recordings: `given` by the caller, or `rendered` like the model's training data.
        calibration_steps: Steps of real streams the ranges come from.
        judged_steps: Steps of other streams, or other parts of them, for the figures below.
        same: Answers (the highest output) that equal the float model's, over `answers`.
        answers: See `same`.
        relative_rms: Error of the answers.
        labelled: Sources with a known label that were classified by both; 0 if none were given.
        right_float: Of `labelled`, by the float model.
        right_int8: Of `labelled`, by this one.
        layers: Every layer, the most sensitive first.
        float_size: Bytes of the float file.
        size: Bytes of this one.
        float_ms: Median milliseconds of a step here; None for `tensorrt`, whose speed only TensorRT shows.
        int8_ms: Likewise.
        time_ratio: Median over rounds, in turns, of this model's time over the float one's.
        refused: Why it should not be used; empty if it passed. Only with `force` such a file is written.
    """

    form: Form
    rule: Rule
    rules: Mapping[str, float]
    recordings: str
    calibration_steps: int
    judged_steps: int
    same: int
    answers: int
    relative_rms: float
    labelled: int
    right_float: int
    right_int8: int
    layers: tuple[Layer, ...]
    float_size: int
    size: int
    float_ms: float | None = None
    int8_ms: float | None = None
    time_ratio: float | None = None
    refused: tuple[str, ...] = ()

    @property
    def kept_float(self) -> int:
        """Layers left in float."""
        return sum(layer.kept_float for layer in self.layers)

    def __str__(self) -> str:
        tried = ", ".join(f"{rule} {error:.3f}" for rule, error in self.rules.items())
        lines = [
            f"int8 for {'TensorRT' if self.form == 'tensorrt' else 'CPUs'}: {len(self.layers) - self.kept_float} of "
            f"{len(self.layers)} layers, ranges by {self.rule} (relative rms error by rule: {tried}) from "
            f"{self.calibration_steps} {'rendered ' if self.recordings == 'rendered' else ''}steps",
            f"  {'':<10}{'float':>12}{'int8':>12}",
            f"  {'size':<10}{self.float_size / 1e6:>9.2f} MB{self.size / 1e6:>9.2f} MB",
        ]
        if self.time_ratio is None:
            lines.append(f"  {'a step':<10}not measured: only TensorRT shows what its int8 takes")
        else:
            lines.append(
                f"  {'a step':<10}{self.float_ms:>9.2f} ms{self.int8_ms:>9.2f} ms   {self.time_ratio:.2f} of the time, in turns"
            )
        if self.labelled:
            both = (f"{right} of {self.labelled}" for right in (self.right_float, self.right_int8))
            lines.append(f"  {'right':<10}" + "".join(f"{text:>12}" for text in both))
        lines.append(
            f"  answers equal to the float model's: {self.same} of {self.answers} ({self.same / max(1, self.answers):.1%}), "
            f"relative rms error {self.relative_rms:.3f}, over {self.judged_steps} steps not calibrated on, "
            "by which the rule and the float layers were chosen too"
        )
        worst = ", ".join(
            f"{layer.name} {layer.error:.3f}{' (float)' if layer.kept_float else ''}" for layer in self.layers[:_SHOWN]
        )
        lines.append(f"  most sensitive layers (error alone): {worst}")
        lines.extend(f"  REFUSED: {reason}" for reason in self.refused)
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def summary(self) -> dict[str, Any]:
        """Return what the file itself carries: everything but the list of layers and the clock, and why it was forced."""
        left_out = ("layers", "float_ms", "int8_ms", "time_ratio", *(() if self.refused else ("refused",)))
        data = {name: value for name, value in asdict(self).items() if name not in left_out}
        return {"int8": {**data, "kept_float": [layer.name for layer in self.layers if layer.kept_float]}}
