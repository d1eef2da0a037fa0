"""The local engine: a process for each worker on this machine, spoken to in lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import IO, Any, cast

from effvision.batch.crew import Crew, Event

__all__ = ["LocalCrew"]

_END_S = 5.0
_KEPT = 2000  # characters of what a worker last wrote to standard error
_START = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from effvision.batch.worker import main; main()"
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class LocalCrew(Crew):
    """Workers on this machine. They are started anew, not forked, and import nothing of the caller's main program."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._spec = spec
        self._events: queue.Queue[Event] = queue.Queue()
        self._workers: dict[int, _Process] = {}
        self._started = 0

    def start(self) -> int:
        """Start a process; see `Crew.start`."""
        self._started += 1
        # only the first may have something to fetch or to export, and shows it
        spec = {**self._spec, "progress": self._spec["progress"] and self._started == 1}
        self._workers[self._started] = _Process(self._started, spec, self._events)
        return self._started

    def send(self, worker: int, task: Mapping[str, Any]) -> None:
        """Write a line to its input; see `Crew.send`."""
        self._workers[worker].send(task)

    def kill(self, worker: int) -> None:
        """Kill its process; see `Crew.kill`."""
        self._workers.pop(worker).kill()

    def next(self, timeout_s: float) -> Event | None:
        """Wait for what a worker says; see `Crew.next`."""
        with contextlib.suppress(queue.Empty):
            event = self._events.get(timeout=max(0.001, timeout_s))
            if event.worker in self._workers:
                if event.kind == "died":
                    self._workers.pop(event.worker).kill()
                return event
        return None

    def close(self) -> None:
        """Kill every process."""
        while self._workers:
            self._workers.popitem()[1].kill()


class _Process:
    """One worker's process and the thread that reads what it says."""

    def __init__(self, number: int, spec: Mapping[str, Any], events: queue.Queue[Event]) -> None:
        self._number, self._events = number, events
        self._loud = bool(spec["progress"])
        self._said = ""
        environment = {**os.environ, **dict.fromkeys(_THREADS, str(spec["threads"]))}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._listen, self._overhear)]
        for thread in self._threads:
            thread.start()
        self.send(spec)

    def send(self, task: Mapping[str, Any]) -> None:
        inlet = cast(IO[bytes], self._process.stdin)
        with contextlib.suppress(OSError):  # it has died: its event is on the way
            inlet.write(json.dumps(task).encode() + b"\n")
            inlet.flush()

    def kill(self) -> None:
        self._process.kill()
        with contextlib.suppress(
            subprocess.TimeoutExpired
        ):  # a disk or network that is gone holds it: it ends with that
            self._process.wait(timeout=_END_S)
        for thread in self._threads:
            thread.join(timeout=_END_S)
        with contextlib.suppress(OSError):  # what was not read by then has nobody to read it
            cast(IO[bytes], self._process.stdin).close()

    def _listen(self) -> None:
        with cast(IO[bytes], self._process.stdout) as outlet:
            for line in outlet:
                if not line.endswith(b"\n"):  # it died while it spoke
                    break
                said = json.loads(line)
                kind = said.pop("event")
                self._loud = self._loud and kind != "ready"
                self._events.put(Event(self._number, kind, said))
        self._process.wait()
        self._threads[1].join(timeout=1.0)
        self._events.put(Event(self._number, "died", {"text": self._why()}))

    def _overhear(self) -> None:
        outlet = cast(IO[bytes], self._process.stderr)
        with outlet:
            while part := os.read(outlet.fileno(), 4096):
                text = part.decode("utf-8", "replace")
                self._said = (self._said + text)[-_KEPT:]
                if self._loud:
                    sys.stderr.write(text)
                    sys.stderr.flush()

    def _why(self) -> str:
        code = self._process.returncode
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
            why = f"signal {name}"
            if name == "SIGKILL":
                why += ", which is also how a system ends it when memory runs out"
        else:
            why = f"exit code {code}"
        last = [line for line in self._said.replace("\r", "\n").splitlines() if line.strip()]
        return f"{why}; the last it wrote: {last[-1].strip()[:300]}" if last else why
