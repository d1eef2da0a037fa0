"""Who does what when: a task a worker, one more try for a file whose worker died, an end to a worker that hangs.

The same for every engine. Nothing waits in a queue but the names of files, so memory does not grow with what they hold.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from effvision import errors
from effvision.batch.crew import Crew, Event
from effvision.batch.inputs import printable
from effvision.errors import EffvisionError, InputError, RuntimeFailure

__all__ = ["Limits", "run_tasks"]

_TRIES = 2  # of a file whose worker died, and of the model when a worker dies while it loads
_LOOK_S = 0.5
_LOADING_S = 1800.0  # a worker may have to fetch weights, or to export a network
_AWAY_S = 10.0  # between two looks: this process was stopped, and its workers with it


@dataclass(frozen=True)
class Limits:
    """When to give up.

    Attributes:
        timeout_s: Seconds a file may take; None: any time.
        stall_s: Seconds without a sign of life, such as another frame.
    """

    timeout_s: float | None
    stall_s: float


@dataclass
class _Worker:
    """What is known of a worker; `task` is None while it loads and while it has nothing to do."""

    ready: bool = False
    task: Mapping[str, Any] | None = None
    began_s: float = field(default_factory=time.monotonic)
    heard_s: float = 0.0


def run_tasks(
    crew: Crew,
    tasks: Iterable[Mapping[str, Any]],
    *,
    workers: int,
    limits: Limits,
    on_ready: Callable[[Mapping[str, Any]], None],
    on_row: Callable[[dict[str, Any]], None],
    on_tick: Callable[[], None],
) -> None:
    """Have every task done once.

    Args:
        crew: The engine.
        tasks: `name` and `path` of each file.
        workers: How many at most.
        limits: When to give up on a file.
        on_ready: Told what the model is, before the first file is given away; what it raises ends the run.
        on_row: Told each row, once for each task.
        on_tick: Called at least twice a second.

    Raises:
        EffvisionError: the model cannot be loaded, the disk is full, or workers die before they do anything.
    """
    _Schedule(crew, iter(tasks), workers, limits, on_ready, on_row, on_tick).run()


class _Schedule:
    def __init__(
        self,
        crew: Crew,
        tasks: Iterator[Mapping[str, Any]],
        workers: int,
        limits: Limits,
        on_ready: Callable[[Mapping[str, Any]], None],
        on_row: Callable[[dict[str, Any]], None],
        on_tick: Callable[[], None],
    ) -> None:
        self._crew, self._tasks, self._most, self._limits = crew, tasks, workers, limits
        self._on_ready, self._on_row, self._on_tick = on_ready, on_row, on_tick
        self._waiting: deque[Mapping[str, Any]] = deque()
        self._workers: dict[int, _Worker] = {}
        self._about: Mapping[str, Any] | None = None
        self._died_loading = 0
        self._looked_s = time.monotonic()

    def run(self) -> None:
        if not self._fill():
            return
        self._start()  # the others when it is ready: it may have to fetch or export what they then find
        while self._fill() or any(worker.task for worker in self._workers.values()):
            event = self._crew.next(_LOOK_S)
            if event is not None and event.worker in self._workers:
                self._take(event, self._workers[event.worker])
            self._end_late()
            self._on_tick()

    def _fill(self) -> bool:
        """Whether a task is waiting to be given away."""
        if not self._waiting and (task := next(self._tasks, None)) is not None:
            self._waiting.append({**task, "attempt": 1})
        return bool(self._waiting)

    def _start(self) -> None:
        self._workers[self._crew.start()] = _Worker()

    def _take(self, event: Event, worker: _Worker) -> None:
        worker.heard_s = time.monotonic()
        if event.kind == "ready":
            worker.ready = True
            self._died_loading = 0
            self._meet(event.data["about"])
            self._give(event.worker, worker)
        elif event.kind == "row":
            worker.task = None
            self._on_row(event.data["row"])
            self._give(event.worker, worker)
        elif event.kind == "failed":
            if not self._others_work(worker):
                raise _raised(event.data)
            self._crew.kill(event.worker)  # no room for one more, say: those that are there go on
            self._bury(Event(event.worker, "died", {"text": event.data["text"]}), worker)
        elif event.kind == "died":
            self._bury(event, worker)

    def _others_work(self, worker: _Worker) -> bool:
        return any(one.ready for one in self._workers.values() if one is not worker)

    def _meet(self, about: Mapping[str, Any]) -> None:
        if self._about is None:
            self._about = about
            self._on_ready(about)
            for _ in range(1, self._most):
                if not self._more_wanted():
                    break
                self._start()
        elif about != self._about:
            differs = next(name for name in about if about[name] != self._about.get(name))
            raise InputError(
                f"the workers do not have the same model: {differs} is {about[differs]} for one and "
                f"{self._about.get(differs)} for another\nhint: install the same effvision and weights everywhere"
            )

    def _more_wanted(self) -> bool:
        """Whether another worker would have something to do: more tasks are waiting than workers without one."""
        free = sum(worker.task is None for worker in self._workers.values())
        while len(self._waiting) <= free and (task := next(self._tasks, None)) is not None:
            self._waiting.append({**task, "attempt": 1})
        return len(self._waiting) > free

    def _give(self, number: int, worker: _Worker) -> None:
        if self._fill():
            worker.task = self._waiting.popleft()
            worker.began_s = worker.heard_s = time.monotonic()
            self._crew.send(number, worker.task)

    def _bury(self, event: Event, worker: _Worker) -> None:
        del self._workers[event.worker]
        if not worker.ready:
            self._died_loading += 1
            if self._died_loading >= _TRIES and not any(one.ready for one in self._workers.values()):
                raise RuntimeFailure(
                    f"a worker died while it loaded the model ({event.data['text']}), and so did the one in its place\n"
                    "hint: fewer --workers need less memory; what is done is kept, and the same command goes on"
                )
        elif worker.task is not None:
            task = worker.task
            if task["attempt"] < _TRIES:
                self._waiting.appendleft({**task, "attempt": task["attempt"] + 1})
            else:
                text = f"the worker died while it had this file, {task['attempt']} times; the last time: {event.data['text']}"
                self._lose(worker, "WorkerDied", text)
        self._replace()

    def _replace(self) -> None:
        """After a worker is gone: give what it leaves to those without a task, and start another if there is more."""
        for number, worker in self._workers.items():
            if worker.ready and worker.task is None:
                self._give(number, worker)
        # of those that died while they loaded there may be no room for more, but the last one has to be replaced
        if self._fill() and self._more_wanted() and (self._died_loading < _TRIES or not self._workers):
            self._start()

    def _end_late(self) -> None:
        """End workers whose file takes too long; the time this process was stopped in (Ctrl-Z) counts for nobody."""
        now_s = time.monotonic()
        away_s, self._looked_s = now_s - self._looked_s, now_s
        if away_s > _AWAY_S:
            for worker in self._workers.values():
                worker.began_s, worker.heard_s = (
                    min(now_s, worker.began_s + away_s),
                    min(now_s, worker.heard_s + away_s),
                )
        for number, worker in list(self._workers.items()):
            if not worker.ready and now_s - worker.began_s > _LOADING_S:
                self._crew.kill(number)
                text = f"it was not ready after {_LOADING_S:g} s"
                self._bury(Event(number, "died", {"text": text}), worker)
            if worker.task is None:
                continue
            spent_s, silent_s = now_s - worker.began_s, now_s - worker.heard_s
            if self._limits.timeout_s is not None and spent_s > self._limits.timeout_s:
                text = f"it took longer than {self._limits.timeout_s:g} s"
            elif silent_s > self._limits.stall_s:
                text = f"nothing came of it for {self._limits.stall_s:g} s: the decoder or the model hangs"
            else:
                continue
            del self._workers[number]
            self._crew.kill(number)
            self._lose(worker, "TimedOut", text)
            self._replace()

    def _lose(self, worker: _Worker, kind: str, text: str) -> None:
        task = worker.task or {}
        found = {"status": "error", "error_type": kind, "error": text, "seconds": time.monotonic() - worker.began_s}
        shared = {name: (self._about or {})[name] for name in ("card", "weights_sha256", "effvision")}
        self._on_row({"path": printable(task["name"]), "attempts": task["attempt"], **found, **shared})


def _raised(data: Mapping[str, Any]) -> EffvisionError:
    """The error a worker could not go on with, as what it was there."""
    kind = getattr(errors, data["kind"], None)
    if data["ours"] and isinstance(kind, type) and issubclass(kind, EffvisionError):
        return kind(data["text"])
    return RuntimeFailure(f"a worker could not load the model: {data['kind']}: {data['text']}")
