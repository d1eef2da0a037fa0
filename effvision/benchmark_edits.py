"""Times a model that edits pictures on this machine: a full pass, and edits of several sizes in turns with it."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from effvision.errors import InputError

__all__ = ["SHARES", "EditTimes", "time_edits"]

SHARES = (0.01, 0.05, 0.15)
"""Of the picture that the timed edits paint: one square each."""


@dataclass(frozen=True)
class EditTimes:
    """Medians of a session's updates, reading and checking the label map included.

    Attributes:
        model: What was timed.
        runtime: `torch` or `onnx`.
        device: The one really used.
        mode: How far a change is followed.
        rounds: Each with one full pass and one edit of each size.
        network_ms: The network alone, once, without keeping anything.
        full_ms: The first update of a picture.
        edits: For each share of the picture: milliseconds, share of the multiply-adds, and how many times faster than the
            quicker of the two above.
        undo_ms: One undo of the largest of the edits.
        memory_mb: Held by the session.
    """

    model: str
    runtime: str
    device: str
    mode: str
    rounds: int
    network_ms: float
    full_ms: float
    edits: dict[str, dict[str, float]]
    undo_ms: float
    memory_mb: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def __str__(self) -> str:
        """Lines for people."""
        lines = [
            f"{self.model}, mode {self.mode}, medians of {self.rounds} rounds",
            f"  network alone   {self.network_ms:9.2f} ms",
            f"  full pass       {self.full_ms:9.2f} ms",
        ]
        for share, found in self.edits.items():
            lines.append(
                f"  edit of {share:<8}{found['ms']:9.2f} ms   {found['computed']:6.1%} of the multiply-adds   "
                f"{found['times_faster']:.1f} times faster"
            )
        lines.append(f"  undo            {self.undo_ms:9.2f} ms")
        lines.append(f"  memory          {self.memory_mb:9.1f} MB")
        return "\n".join(lines)


def time_edits(model: Any, *, rounds: int = 20, warmup: int = 2, mode: str = "local") -> EditTimes:
    """Time one session: squares of other classes at random places, each compared with the picture before it.

    Args:
        model: One whose `takes` is `labels`.
        rounds: Timed rounds.
        warmup: Rounds before that.
        mode: Of the session.

    Raises:
        InputError: no rounds, or an unknown mode.
    """
    if rounds < 1:
        raise InputError(f"`rounds` must be 1 or more; got {rounds}\nhint: 20")
    rng = np.random.default_rng(0)
    first = next(iter(model.example_updates(1, seed=0)))
    graph = next(iter(model.metadata.graphs))
    dense = next(iter(model.example_inputs(graph, steps=1, batch=1, seed=0)))
    session = model.session(mode=mode, journal_mb=1024)
    spent: dict[str, list[float]] = {"network": [], "full": [], "undo": [], **{_name(share): [] for share in SHARES}}
    shares: dict[str, list[float]] = {_name(share): [] for share in SHARES}
    for turn in range(warmup + rounds):
        if turn == warmup:
            for times in (*spent.values(), *shares.values()):
                times.clear()
        _timed(spent["network"], lambda: model.runtime.run(graph, dense))
        session.reset()
        _timed(spent["full"], lambda: session.update(first))
        for share in SHARES:
            edited = _painted(session.labels, share, len(model.metadata.labels), rng)
            result = _timed(spent[_name(share)], lambda edited=edited: session.update(edited))
            shares[_name(share)].append(result.computed_fraction)
        _timed(spent["undo"], session.undo)
    medians = {name: statistics.median(times) for name, times in spent.items()}
    fastest = min(medians["network"], medians["full"])
    edits = {
        name: {
            "ms": round(medians[name], 3),
            "computed": round(statistics.median(found), 4),
            "times_faster": round(fastest / medians[name], 2),
        }
        for name, found in shares.items()
    }
    figures = {f"{name}_ms": round(medians[name], 3) for name in ("network", "full", "undo")}
    runtime = model.runtime
    return EditTimes(
        repr(model),
        runtime.name,
        runtime.device,
        mode,
        rounds,
        edits=edits,
        memory_mb=round(session.memory_mb, 1),
        **figures,
    )


def _name(share: float) -> str:
    return f"{share:.0%}"


def _timed(times: list[float], call: Any) -> Any:
    started = time.perf_counter()
    result = call()
    times.append((time.perf_counter() - started) * 1e3)
    return result


def _painted(labels: Any, share: float, classes: int, rng: np.random.Generator) -> Any:
    """A square of another class than the one in its middle, anywhere inside."""
    height, width = labels.shape
    side = max(1, round((share * height * width) ** 0.5))
    high, wide = min(side, height), min(side, width)
    top, left = int(rng.integers(0, height - high + 1)), int(rng.integers(0, width - wide + 1))
    middle = int(labels[top + high // 2, left + wide // 2])
    labels[top : top + high, left : left + wide] = (middle + int(rng.integers(1, classes))) % classes
    return labels
