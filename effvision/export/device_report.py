"""What a check of a model for a device says: a verdict on each node, readable, and as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["LIMITED", "OK", "SILENT", "UNSUPPORTED", "VERDICTS", "DeviceReport", "Finding"]

OK, LIMITED, SILENT, UNSUPPORTED = "ok", "limited", "silently wrong", "unsupported"
VERDICTS = (OK, LIMITED, UNSUPPORTED, SILENT)
"""From best to worst: what is refused is noticed, and may fall back to another runtime."""

_NAMED = 3  # modules or nodes of a group that are named before "and more"


@dataclass(frozen=True)
class Finding:
    """One verdict on one node, or on the model as a whole.

    Attributes:
        node: Its name, behind those of the nodes whose sub-graph or function it is in; empty for the whole model.
        op: Its operator; empty for the whole model.
        verdict: `ok`, `limited`, `unsupported` or `silently wrong`.
        module: The part of the network it came from; empty where the file does not tell.
        reason: Why it is not ok; empty if it is.
        hint: What to do about it.
    """

    node: str
    op: str
    verdict: str
    module: str = ""
    reason: str = ""
    hint: str = ""


@dataclass(frozen=True)
class DeviceReport:
    """What a device is predicted to make of a model.

    Attributes:
        model: The file, or "the model".
        target: Name of the target.
        title: The target for people.
        findings: In the order of the graph, the whole model first; a node has one or several.
        counts: Verdicts to nodes, each counted once, by its worst.
        table: Version of the operator table.
        notes: What limits the prediction.
        predicted: Always true: nothing ran.
    """

    model: str
    target: str
    title: str
    findings: tuple[Finding, ...]
    counts: Mapping[str, int]
    table: str
    notes: tuple[str, ...] = ()
    predicted: bool = True

    @property
    def verdict(self) -> str:
        """The worst verdict."""
        return max((finding.verdict for finding in self.findings), key=VERDICTS.index, default=OK)

    @property
    def passed(self) -> bool:
        """Whether nothing is unsupported or silently wrong."""
        return self.verdict in (OK, LIMITED)

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that are not ok."""
        return tuple(finding for finding in self.findings if finding.verdict != OK)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "model": self.model,
            "target": self.target,
            "predicted": self.predicted,
            "table": self.table,
            "verdict": self.verdict,
            "counts": dict(self.counts),
            "notes": list(self.notes),
            "findings": [asdict(finding) for finding in self.findings],
        }

    def __str__(self) -> str:
        lines = [f"{self.model} on {self.title}: {self.verdict} (predicted, nothing ran; table {self.table})"]
        lines += [f"  note: {note}" for note in self.notes]
        groups: dict[tuple[str, str, str, str], list[Finding]] = {}
        for finding in self.problems:
            groups.setdefault((finding.verdict, finding.op, finding.reason, finding.hint), []).append(finding)
        for verdict, op, reason, hint in sorted(groups, key=lambda group: -VERDICTS.index(group[0])):
            found = groups[verdict, op, reason, hint]
            what = f"{len(found)} {op}" if op else "model"
            lines.append(f"  {verdict:<16}{what}: {reason}")
            if op:
                modules = list(dict.fromkeys(finding.module for finding in found if finding.module))
                lines.append(f"{'':18}{_some('node', [finding.node for finding in found])}")
                lines += [f"{'':18}{_some('in module', modules)}"] if modules else []
            lines.append(f"{'':18}hint: {hint}")
        fine = Counter(finding.op for finding in self.findings if finding.verdict == OK)
        kinds = ", ".join(f"{count} {op}" for op, count in fine.most_common())
        lines.append(f"  {OK:<16}{sum(fine.values())} nodes{': ' if kinds else ''}{kinds}")
        return "\n".join(_printable(line) for line in lines)


def _some(label: str, names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{label} {', '.join(names[:_NAMED])}{more}"


def _printable(line: str) -> str:
    """Names come from any file: what would steer a terminal is shown as a question mark."""
    return "".join(letter if letter.isprintable() else "?" for letter in line)
