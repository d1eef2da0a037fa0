"""Who does what when, with workers that are made up: nothing is lost and nothing waits for ever, however they end."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import pytest

from effvision.batch import schedule
from effvision.batch.crew import Crew, Event
from effvision.batch.schedule import Limits, run_tasks
from effvision.errors import RuntimeFailure

ABOUT = {"card": "cheap", "weights_sha256": "0", "effvision": "1"}


class Script(Crew):
    """Workers that load, and answer, as they are told: `loads` and `answers`, one after the other; then all goes well.

    A letter each: `.` goes well, `x` dies, `f` fails to load, anything else is never heard of.
    """

    def __init__(self, *, loads: str = "", answers: str = "") -> None:
        self.events: deque[Event] = deque()
        self.loads, self.answers = deque(loads), deque(answers)
        self.started = 0
        self.asked = 0
        self.killed: list[int] = []

    def start(self) -> int:
        self.started += 1
        kind = self.loads.popleft() if self.loads else "."
        if kind == "x":
            self.events.append(Event(self.started, "died", {"text": "x"}))
        elif kind == "f":
            self.events.append(Event(self.started, "failed", {"kind": "MemoryError", "text": "no room", "ours": False}))
        elif kind == ".":
            self.events.append(self._ready(self.started))
        return self.started

    @staticmethod
    def _ready(worker: int) -> Event:
        return Event(worker, "ready", {"about": ABOUT})

    def send(self, worker: int, task: Mapping[str, Any]) -> None:
        kind = self.answers.popleft() if self.answers else "."
        if kind == "x":
            self.events.append(Event(worker, "died", {"text": "x"}))
        elif kind == ".":
            self.events.append(Event(worker, "row", {"row": {"path": task["name"], "attempts": task["attempt"]}}))

    def kill(self, worker: int) -> None:
        self.killed.append(worker)

    def next(self, timeout_s: float) -> Event | None:
        self.asked += 1
        assert self.asked < 1000, "it waits for ever"
        return self.events.popleft() if self.events else None

    def close(self) -> None:
        pass


def run(crew: Script, files: int, *, workers: int = 1, stall_s: float = 1e6) -> dict[str, dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    run_tasks(
        crew,
        [{"name": str(number), "path": f"/{number}"} for number in range(files)],
        workers=workers,
        limits=Limits(None, stall_s),
        on_ready=lambda about: None,
        on_row=rows.append,
        on_tick=lambda: None,
    )
    found = {row["path"]: row for row in rows}
    assert len(rows) == files == len(found)
    return found


def test_the_last_worker_is_replaced_though_others_died_while_they_loaded() -> None:
    """As where memory is for one: of three, two die while they load, and later the one that works dies of a file."""
    crew = Script(loads=".xxx", answers="...x")
    found = run(crew, 8, workers=3)
    assert found["3"]["attempts"] == 2 and all("status" not in row for row in found.values())


def test_where_none_can_load_any_more_the_run_ends() -> None:
    with pytest.raises(RuntimeFailure, match="died while it loaded the model"):
        run(Script(loads=".xxxxxxxx", answers="...x"), 8, workers=3)


def test_time_in_which_this_process_was_stopped_counts_for_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-Z stops the workers too: what they had is not at fault when it goes on."""
    now = [0.0]
    monkeypatch.setattr(schedule.time, "monotonic", lambda: now[0])

    class Stopped(Script):
        def next(self, timeout_s: float) -> Event | None:
            now[0] += timeout_s if self.events or self.asked != 2 else 4000.0
            if self.asked == 4:
                self.events.append(Event(1, "row", {"row": {"path": "0", "attempts": 1}}))
            return super().next(timeout_s)

    crew = Stopped(answers="-")
    assert run(crew, 1, stall_s=300.0) == {"0": {"path": "0", "attempts": 1}} and not crew.killed
    assert now[0] > 4000.0

    class Hangs(Script):
        def next(self, timeout_s: float) -> Event | None:
            now[0] += timeout_s
            return super().next(timeout_s)

    hangs = Hangs(answers="-")
    assert run(hangs, 2, stall_s=300.0)["0"]["error_type"] == "TimedOut" and hangs.killed == [1]


def test_a_worker_that_cannot_load_beside_others_ends_no_run() -> None:
    """As where a graphics card has room for one model and not for two."""
    crew = Script(loads=".f")
    assert len(run(crew, 6, workers=2)) == 6 and crew.killed == [2]


def test_a_model_that_nobody_can_load_is_an_error_at_once() -> None:
    with pytest.raises(RuntimeFailure, match="no room"):
        run(Script(loads="f"), 6, workers=2)


def test_a_worker_that_hangs_while_it_loads_is_replaced_and_two_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "_LOADING_S", -1.0)
    crew = Script(loads="h")
    assert len(run(crew, 3)) == 3 and crew.killed == [1]
    with pytest.raises(RuntimeFailure, match="was not ready after"):
        run(Script(loads="hh"), 3)
