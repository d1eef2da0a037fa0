"""How many bits an exported file computes with, as a caller asks for it. Needs neither onnx nor torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from effvision.errors import DTypeError, InputError, SourceError

__all__ = ["FORMS", "JUDGED", "NEWEST_OPSET", "RULES", "Form", "Int8", "Labelled", "Rule", "converter"]

Form = Literal["cpu", "tensorrt"]
FORMS: tuple[Form, ...] = ("cpu", "tensorrt")
Rule = Literal["mse", "minmax", "percentile"]
RULES: tuple[Rule, ...] = ("mse", "minmax", "percentile")
Labelled = tuple[Any, str]
"""A source and the label it has."""
JUDGED = ("classification", "segmentation")
"""Tasks whose answer is the highest of the first output along axis 1."""
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

    @classmethod
    def of(cls, asked: Int8 | Form) -> Int8:
        """Take a form's name for its defaults, and check; errors as `check`."""
        how = asked if isinstance(asked, Int8) else cls(asked)
        how.check()
        return how

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


def _check_model(predictor: Any, how: Int8) -> None:
    """Refuse before any work what int8 has no judge for, labels of other models, and files that are not there."""
    metadata = predictor.metadata
    if metadata.task not in JUDGED or len(metadata.graphs) > 1:
        what = f"{metadata.task} of {len(metadata.graphs)} graphs"
        raise InputError(f"int8 is judged for {' and '.join(JUDGED)} of one graph; this model is {what}: keep float")
    if unknown := list(dict.fromkeys(label for _, label in how.labelled or () if label not in metadata.labels)):
        raise InputError(
            f"the labels {', '.join(unknown[:5])} are none of the model's: {', '.join(metadata.labels[:8])} ...\n"
            "hint: `effvision info` lists them"
        )
    names = [source for source in (*(how.calibration or ()), *(pair[0] for pair in how.labelled or ()))]
    files = [str(name) for name in names if isinstance(name, (str, os.PathLike))]
    for name in files:
        if not ("://" in name or any(mark in name for mark in "*?[") or Path(name).expanduser().exists()):
            raise SourceError(f"there is no recording {name}")
    fitted = {str(name) for name in how.calibration or () if isinstance(name, (str, os.PathLike))}
    if both := sorted(fitted & {str(pair[0]) for pair in how.labelled or ()}):
        raise InputError(f"{both[0]} is given to calibrate on and to judge by\nhint: judge by other recordings")


def converter(
    predictor: Any,
    examples: Any,
    *,
    half: bool,
    int8: Int8 | Form | None,
    opset: int,
    batch: int | str,
    notify: Callable[[str], None] | None = None,
) -> Callable[[Any, Any], tuple[Any, Any]] | None:
    """Return what makes the precision asked for of a float32 graph and its description; None for float32.

    Raises:
        InputError: both at once, an unknown form, or an opset or batch the form cannot have.
    """
    if int8 is None:
        if not half:
            return None

        def to_half(model: Any, spec: Any) -> tuple[Any, Any]:
            from effvision.export.half import make_half

            return make_half(model, spec, examples, judged=predictor.metadata.task in JUDGED)

        return to_half
    if half:
        raise InputError(
            "`half` and `int8` are two precisions\nhint: give one; TensorRT up to 10 mixes int8 with float16 by itself"
        )
    how = Int8.of(int8)
    _check_model(predictor, how)
    if isinstance(opset, int) and opset > NEWEST_OPSET:  # what is no number is refused by the export itself
        raise InputError(f"int8 files have opset {NEWEST_OPSET} or older; got {opset}")

    if isinstance(batch, int) and batch > 1:
        raise InputError(
            f"int8 is calibrated one stream at a time; this export has {batch}\nhint: batch=1 or 'dynamic'"
        )

    def to_int8(model: Any, spec: Any) -> tuple[Any, Any]:
        from effvision.export.int8 import make_int8

        return make_int8(predictor, model, spec, how, notify=notify or (lambda text: None))

    return to_int8
