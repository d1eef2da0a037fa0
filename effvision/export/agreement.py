"""How near two graphs' answers are, over streams on which each carries its own state."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from effvision.metadata import GraphSpec

__all__ = ["Agreement", "Feed", "Stream", "agreement"]

Feed = dict[str, np.ndarray]
Stream = list[Feed]
"""What one graph was given, step after step, its state included."""


@dataclass(frozen=True)
class Agreement:
    """How near two graphs' answers are.

    Attributes:
        same: Answers (argmax of the first output) that are equal.
        answers: All of them.
        relative_rms: Root mean square of the difference of the first output over that of the output.
    """

    same: int
    answers: int
    relative_rms: float

    @property
    def share(self) -> float:
        """`same` over `answers`."""
        return self.same / max(1, self.answers)


def agreement(reference: Any, other: Any, streams: Iterable[Stream], spec: GraphSpec) -> Agreement:
    """Run two ONNX Runtime sessions over streams, each carrying its own state from where the stream begins.

    Args:
        reference: What the other is compared with.
        other: Of the same in- and outputs.
        streams: What they are given; the states in it are taken at the first step only.
        spec: Names of the graph; its first output is the answer, with its classes along axis 1.
    """
    same = answers = 0
    squares = total = 0.0
    for stream in streams:
        states: list[Feed] = [{s.input: stream[0][s.input] for s in spec.states} for _ in range(2)]
        for feed in stream:
            found = []
            for place, session in enumerate((reference, other)):
                given = {**feed, **states[place]}
                outputs = dict(zip([o.name for o in session.get_outputs()], session.run(None, given), strict=True))
                states[place] = {s.input: outputs[s.output] for s in spec.states}
                found.append(np.asarray(outputs[spec.outputs[0].name], np.float64))
            wanted, got = found
            same += int((wanted.argmax(1) == got.argmax(1)).sum())
            answers += int(wanted.argmax(1).size)
            squares, total = squares + float(((wanted - got) ** 2).sum()), total + float((wanted**2).sum())
    nothing = 0.0 if squares == 0 else np.inf  # where the reference answers with zeros only
    return Agreement(same, answers, (squares / total) ** 0.5 if total else nothing)
