"""How many bits an exported file computes with, as a caller asks for it. Needs neither onnx nor torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from effvision.errors import DTypeError, InputError

__all__ = ["FORMS", "NEWEST_OPSET", "RULES", "Form", "Int8", "Labelled", "Rule", "converter"]

Form = Literal["cpu", "tensorrt"]
FORMS: tuple[Form, ...] = ("cpu", "tensorrt")
Rule = Literal["mse", "minmax", "percentile"]
RULES: tuple[Rule, ...] = ("mse", "minmax", "percentile")
Labelled = tuple[Any, str]
"""A source and the label it has."""
NEWEST_OPSET = 17
"""Of int8 files: TensorRT 8.4 to 8.6 read no newer one, and a file for a CPU gains nothing from one."""


@dataclass(frozen=True)
class Int8:
    """How to quantise.

    Attributes:
        form: `cpu` (ONNX Runtime) or `tensorrt`.
        calibration: Sources of what the model will see, at least 192 steps; None: streams the family renders, for weights that
            were trained on such.
        labelled: (source, label) pairs to judge by; None: rendered ones likewise.
        rule: `mse`, `minmax` or `percentile`; None: the one whose answers are nearest to the float model's.
        force: Write the file even if it is refused.
    """

    form: Form
    calibration: Sequence[Any] | None = None
    labelled: Sequence[Labelled] | None = None
    rule: Rule | None = None
    force: bool = False

    def check(self) -> None:
        """Raise what is wrong before any work.

        Raises:
            InputError: an unknown form or rule, or no sources.
            DTypeError: `calibration` is one source instead of a list, or `labelled` no list of pairs.
        """
        if self.form not in FORMS:
            raise InputError(f"`int8` must be one of {', '.join(FORMS)}; got {self.form!r}")
        if self.rule not in (None, *RULES):
            raise InputError(f"`rule` must be one of {', '.join(RULES)}, or None for the best; got {self.rule!r}")
        for name, value in (("calibration", self.calibration), ("labelled", self.labelled)):
            if value is None:
                continue
            if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
                raise DTypeError(f"`{name}` must be a list; got {type(value).__name__}\nhint: [source] for one")
            if not value:
                raise InputError(f"`{name}` is empty\nhint: leave it out, or give what the model will see")
        for pair in self.labelled or ():
            if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[1], str):
                raise DTypeError(f"`labelled` holds (source, label) pairs; got {pair!r:.60}")


def converter(
    predictor: Any,
    examples: Any,
    *,
    half: bool,
    int8: Int8 | Form | None,
    opset: int,
    notify: Callable[[str], None] | None = None,
) -> Callable[[Any, Any], tuple[Any, Any]] | None:
    """Return what makes the precision asked for of a float32 graph and its description; None for float32.

    Raises:
        InputError: both at once, an unknown form, or an opset the form cannot have.
    """
    if int8 is None:
        if not half:
            return None

        def to_half(model: Any, spec: Any) -> tuple[Any, Any]:
            from effvision.export.half import make_half

            return make_half(model, spec, examples)

        return to_half
    if half:
        raise InputError(
            "`half` and `int8` are two precisions\nhint: give one; TensorRT mixes int8 with float16 by itself"
        )
    how = int8 if isinstance(int8, Int8) else Int8(int8)
    how.check()
    if isinstance(opset, int) and opset > NEWEST_OPSET:  # what is no number is refused by the export itself
        raise InputError(f"int8 files have opset {NEWEST_OPSET} or older; got {opset}")

    def to_int8(model: Any, spec: Any) -> tuple[Any, Any]:
        from effvision.export.int8 import make_int8

        return make_int8(predictor, model, spec, how, notify=notify or (lambda text: None))

    return to_int8
