"""What an engine does with a network, operation by operation."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from effvision.incremental.trace import Graph

__all__ = ["Report", "Row", "rows_of"]


@dataclass(frozen=True)
class Row:
    """One value of the network.

    Attributes:
        name: As in the exported graph.
        operation: `conv2d`, ...
        shape: (N, C, H, W), or what it has.
        how: `parts` (only what changed is computed) or `dense`.
        reason: Why it is computed dense.
        kept: Whether it is cached.
        cache_bytes: What that takes; 0 if it is not.
        halo: (rows, columns): how far a change of one pixel of the inputs may spread in this map, in its own pixels.
        macs: Multiply-adds of all of it.
    """

    name: str
    operation: str
    shape: tuple[int, ...]
    how: str
    reason: str
    kept: bool
    cache_bytes: int
    halo: tuple[int, int]
    macs: float


@dataclass(frozen=True)
class Report:
    """What an engine does; `str()` is a table.

    Attributes:
        mode: `local`, `exact`, `frozen` or `reference`.
        promise: What the mode promises about the result.
        rows: One an operation, in order of computation.
        cache_bytes: What the kept maps take.
        all_bytes: What keeping every operation's result would take.
        journal_bytes: What undo and redo take now.
        journal_limit_bytes: What they may take.
        dense_macs: Multiply-adds of a full pass.
    """

    mode: str
    promise: str
    rows: tuple[Row, ...]
    cache_bytes: int
    all_bytes: int
    journal_bytes: int
    journal_limit_bytes: int
    dense_macs: float

    @property
    def dense(self) -> dict[str, str]:
        """The operations computed dense and why, by name."""
        return {row.name: row.reason for row in self.rows if row.how == "dense"}

    def __str__(self) -> str:
        """The table, and the sums below it."""
        lines = [f"mode {self.mode}: {self.promise}"]
        width = max([len(row.name) for row in self.rows] + [4])
        for row in self.rows:
            shape = "x".join(map(str, row.shape))
            kept = f"kept {row.cache_bytes / 1e6:.2f} MB" if row.kept else ""
            note = f"dense: {row.reason}" if row.how == "dense" else f"parts, halo {row.halo[0]}x{row.halo[1]}"
            lines.append(f"{row.name:<{width}}  {shape:<18}  {row.macs / 1e6:>10.2f} M  {kept:<16}  {note}".rstrip())
        share = self.cache_bytes / self.all_bytes if self.all_bytes else 0.0
        lines.append(
            f"{self.dense_macs / 1e9:.3f} G multiply-adds dense; kept maps {self.cache_bytes / 1e6:.1f} MB "
            f"({share:.0%} of every result), journal {self.journal_bytes / 1e6:.1f} of {self.journal_limit_bytes / 1e6:.0f} MB"
        )
        return "\n".join(lines)


def rows_of(graph: Graph, kept: Container[int]) -> tuple[Row, ...]:
    """Describe every operation of a network, of whose values some are kept."""
    halos = _halos(graph)
    return tuple(
        Row(
            name=value.name,
            operation=value.operation,
            shape=value.shape,
            how="dense" if value.rule is None else "parts",
            reason=value.reason,
            kept=value.index in kept,
            cache_bytes=value.bytes if value.index in kept else 0,
            halo=halos[value.index],
            macs=value.macs,
        )
        for value in graph.values
        if value.call is not None
    )


def _halos(graph: Graph) -> dict[int, tuple[int, int]]:
    """How far a change of one pixel in the middle of every input may spread in each value, beyond one pixel."""
    spans: dict[tuple[int, int], tuple[int, int]] = {}
    for index in graph.inputs:
        for axis in (0, 1):
            middle = graph.values[index].size[axis] // 2
            spans[index, axis] = (middle, middle + 1)
    for value in graph.values:
        for axis in (0, 1):
            found = None
            for number, source in enumerate(value.inputs):
                if (source, axis) not in spans:
                    continue
                axes = value.rule.axes[number] if value.rule else None
                span = axes[axis].touches(*spans[source, axis]) if axes else (0, value.size[axis])
                found = span if found is None else (min(found[0], span[0]), max(found[1], span[1]))
            if found is not None:
                spans[value.index, axis] = found
    return {
        value.index: (_half(spans.get((value.index, 0), (0, 1))), _half(spans.get((value.index, 1), (0, 1))))
        for value in graph.values
    }


def _half(span: tuple[int, int]) -> int:
    return max(span[1] - span[0], 0) // 2
