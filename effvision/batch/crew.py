"""What an engine is: workers that are started, given a task, killed, and that say what happens to them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Crew", "Event"]


@dataclass(frozen=True)
class Event:
    """Something a worker said, or that befell it.

    Attributes:
        worker: Its number.
        kind: `ready`: the model is loaded (`about`). `beat`: its work gets on. `row`: a file is done (`row`). `failed`: it
            could not load the model, or cannot go on (`kind`, `text`, `ours`). `died`: its process is gone (`text`).
        data: The parts named above.
    """

    worker: int
    kind: Literal["ready", "beat", "row", "failed", "died"]
    data: Mapping[str, Any] = field(default_factory=dict)


class Crew(ABC):
    """Workers by number. A worker takes one task at a time; nothing is heard of one that was killed."""

    @abstractmethod
    def start(self) -> int:
        """Start a worker, which begins to load the model, and return its number."""

    @abstractmethod
    def send(self, worker: int, task: Mapping[str, Any]) -> None:
        """Give a worker that is ready, and has no task, one."""

    @abstractmethod
    def kill(self, worker: int) -> None:
        """End a worker at once, whatever it does."""

    @abstractmethod
    def next(self, timeout_s: float) -> Event | None:
        """Wait for the next event; None if there is none in that time."""

    @abstractmethod
    def close(self) -> None:
        """End all workers."""

    def most(self, workers: int) -> int:
        """Return how many of so many workers there is room for.

        Raises:
            RuntimeFailure: for none.
        """
        return workers
