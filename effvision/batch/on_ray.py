"""The engine on Ray: an actor for each worker, on this machine or on a cluster.

Plain actors, and neither Ray Data nor `ray.util.ActorPool`. Ray Data retries blocks of rows, not files: an actor that dies
costs every file of its block again, and one file that hangs cannot be ended alone. `ActorPool` does not say which task was
lost with an actor. Here each actor has one file at a time, as a local worker has, and the same rules hold for both.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from effvision._optional import require
from effvision.batch.crew import Crew, Event
from effvision.errors import EffvisionError, RuntimeFailure, SourceError

__all__ = ["Actor", "RayCrew"]

_ASK_S = 1.0  # between two questions to each actor whether it gets on
_KNOCK_S = 5.0
_STORE_BYTES = 100_000_000  # rows are small; Ray would take a third of the memory


class Actor:
    """A worker in an actor of Ray. Its answers are JSON, as those of a local worker."""

    def __init__(self) -> None:
        self._worker: Any = None
        self._beats = 0

    def load(self, spec: str) -> str:
        """Load the model; return the event `ready` or `failed`."""
        from effvision.batch.worker import Worker

        try:
            self._worker = Worker(json.loads(spec))
        except Exception as error:
            return _failed(error)
        return json.dumps({"event": "ready", "about": self._worker.about})

    def work(self, task: str) -> str:
        """Answer for one file; return the event `row` or `failed`."""
        try:
            return json.dumps({"event": "row", "row": self._worker.row(json.loads(task), self._beat)})
        except SourceError as error:
            return _failed(error)

    def beats(self) -> int:
        """Return how often the work got on, from a thread of its own."""
        return self._beats

    def _beat(self) -> None:
        self._beats += 1


def _failed(error: Exception) -> str:
    ours = isinstance(error, EffvisionError)
    kind, text = type(error).__name__, str(error) or type(error).__name__
    return json.dumps({"event": "failed", "kind": kind, "text": text, "ours": ours})


class RayCrew(Crew):
    """Actors of Ray, each with as many cores as a worker has threads."""

    def __init__(self, spec: Mapping[str, Any], address: str | None) -> None:
        """Begin Ray on this machine, or go to the cluster at `address`.

        Raises:
            MissingDependencyError: Ray is not installed.
            RuntimeFailure: there is no cluster at that address, or Ray does not start.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports to its makers unless told not to
        os.environ.setdefault(
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
        )  # what it will do by itself, without its warning
        self._ray = require("ray", extra="scale")
        self._spec = {**spec, "progress": False}
        self._begun = not self._ray.is_initialized()
        if self._begun:
            here: dict[str, Any] = {"num_cpus": spec["workers"] * spec["threads"], "object_store_memory": _STORE_BYTES}
            given = {"address": address} if address else {"address": "local", "include_dashboard": False, **here}
            _knock(address)
            try:
                with _searched_here(), _own_signals():
                    self._ray.init(log_to_driver=False, logging_level="error", **given)
            except Exception as error:  # Ray raises a dozen kinds
                raise _unreachable(address, _first(error)) from error
        gpus = 1 if str(spec["device"]).startswith("cuda") else 0
        settled = {"num_cpus": spec["threads"], "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
        # `beats` is answered beside the work, which may hang
        self._made = self._ray.remote(concurrency_groups={"ask": 1}, **settled)(Actor)
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, int] = {}
        self._asked: dict[Any, int] = {}
        self._beats: dict[int, int] = {}
        self._asked_s = 0.0
        self._started = 0

    def start(self) -> int:
        """Start an actor; see `Crew.start`."""
        self._started += 1
        actor = self._made.remote()
        self._actors[self._started] = actor
        self._calls[actor.load.remote(json.dumps(self._spec))] = self._started
        return self._started

    def send(self, worker: int, task: Mapping[str, Any]) -> None:
        """Call it; see `Crew.send`."""
        self._calls[self._actors[worker].work.remote(json.dumps(task))] = worker

    def kill(self, worker: int) -> None:
        """End its process; see `Crew.kill`."""
        actor = self._actors.pop(worker)
        for calls in (self._calls, self._asked):
            for call in [call for call, number in calls.items() if number == worker]:
                del calls[call]
        with contextlib.suppress(Exception):  # it may be dead already
            self._ray.kill(actor, no_restart=True)

    def next(self, timeout_s: float) -> Event | None:
        """Wait for an actor; see `Crew.next`."""
        self._ask()
        waiting = [*self._calls, *self._asked]
        if not waiting:
            time.sleep(timeout_s)
            return None
        ready, _ = self._ray.wait(waiting, num_returns=1, timeout=timeout_s)
        return self._heard(ready[0]) if ready else None

    def close(self) -> None:
        """End the actors, and Ray if it was begun here."""
        for worker in list(self._actors):
            self.kill(worker)
        if self._begun:
            self._ray.shutdown()

    def most(self, workers: int) -> int:
        """Return how many of so many the cluster has room for; see `Crew.most`."""
        there = self._ray.cluster_resources()
        room = int(there.get("CPU", 0) // self._spec["threads"])
        if str(self._spec["device"]).startswith("cuda"):
            room = min(room, int(there.get("GPU", 0)))
        if room < 1:
            raise RuntimeFailure(
                f"the Ray cluster has {there.get('CPU', 0):g} cores and {there.get('GPU', 0):g} GPUs: no room for a worker of "
                f"{self._spec['threads']} threads on {self._spec['device']}\nhint: fewer --threads"
            )
        return min(workers, room)

    def _ask(self) -> None:
        """Ask each actor once a second whether it gets on; one that does not answer is not asked again until it does."""
        if time.monotonic() - self._asked_s < _ASK_S:
            return
        self._asked_s = time.monotonic()
        pending = set(self._asked.values())
        for number, actor in self._actors.items():
            if number not in pending and number in self._calls.values():
                self._asked[actor.beats.options(concurrency_group="ask").remote()] = number

    def _heard(self, call: Any) -> Event | None:
        asked = call in self._asked
        number = self._asked.pop(call) if asked else self._calls.pop(call)
        try:
            answer = self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            if asked:  # its work fails likewise
                return None
            self.kill(number)
            return Event(number, "died", {"text": _first(error)})
        if asked:
            before, self._beats[number] = self._beats.get(number, 0), answer
            return Event(number, "beat") if answer != before else None
        said = json.loads(answer)
        return Event(number, said.pop("event"), said)


def _knock(address: str | None) -> None:
    """Say in seconds that nobody answers at `host:port`; Ray would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=_KNOCK_S).close()
        except (OSError, OverflowError) as error:
            raise _unreachable(address, str(error)) from error


def _unreachable(address: str | None, why: str) -> RuntimeFailure:
    if address is None:
        return RuntimeFailure(f"cannot start Ray on this machine: {why}\nhint: --engine local needs no Ray")
    return RuntimeFailure(
        f"cannot reach the Ray cluster at {address}: {why}\n"
        f"hint: `ray status --address {address}`; a cluster with tokens needs RAY_AUTH_MODE=token and the token here"
    )


@contextlib.contextmanager
def _searched_here() -> Iterator[None]:
    """Let what is started now look for modules where this process does."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in sys.path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep what was to happen on SIGTERM: Ray puts an exit of its own in its place."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, before)


def _first(error: Exception) -> str:
    """What Ray says of a dead actor, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300]
