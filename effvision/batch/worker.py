"""One worker: a model loaded once, and a row for each file it is given. Started by the engines; a process of its own.

As a program it reads a line of JSON for each task and writes a line for each event: `ready`, `beat`, `row`, `failed`. It ends
when its input does, so it never outlives the process that started it, even while a decoder hangs.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import math
import os
import queue
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from effvision import __version__
from effvision.answers import Answers, answers_for
from effvision.batch.inputs import printable, target_of
from effvision.errors import EffvisionError, InputError, SourceError
from effvision.loading import choose, preferred_runtime

__all__ = ["Worker", "is_builder", "load", "main", "plain"]

_BEAT_S = 0.5
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_BUILDER = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_builder(model: str) -> bool:
    """Whether a model is named by the function that makes it, `module:function`."""
    return _BUILDER.fullmatch(model) is not None and not os.path.exists(model)


def load(spec: Mapping[str, Any]) -> Any:
    """Make the model that a spec names: `model`, `card`, `runtime`, `device`, `threads`, `progress`.

    Raises:
        EffvisionError: as `Predictor.from_pretrained`.
        InputError: a function that is not there.
    """
    from effvision.predictor import Predictor

    model, runtime, threads = spec["model"], spec["runtime"], spec["threads"]
    if is_builder(model):
        _limit(threads)
        module, _, name = model.partition(":")
        try:
            return getattr(importlib.import_module(module), name)()
        except (ImportError, AttributeError) as error:
            raise InputError(f"{model} is no function that makes a model: {error}\nhint: MODULE:FUNCTION") from error
    runtime = preferred_runtime(model, runtime, spec["device"])
    exported = model.lower().endswith(".onnx") or choose(runtime) == "onnx"
    _limit(threads, torch=not exported)
    return Predictor.from_pretrained(
        model,
        card=spec["card"],
        runtime=runtime,
        device=spec["device"],
        threads=threads if exported else None,
        progress=spec["progress"],
    )


def _limit(threads: int, *, torch: bool | None = None) -> None:
    """Keep to so many threads, where libraries start their own; OpenCV's FFmpeg would decode on all cores."""
    os.environ.setdefault("OPENCV_FFMPEG_THREADS", str(threads))
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # a line for each damaged packet; our errors say what matters
    if torch or (torch is None and "torch" in sys.modules):
        importlib.import_module("torch").set_num_threads(threads)
    with contextlib.suppress(ImportError, OSError):  # what reads no pictures needs no OpenCV
        importlib.import_module("cv2").setNumThreads(threads)


class Worker:
    """A loaded model and its answers for files.

    Attributes:
        about: What all its rows share, and what the parent has to know: `card`, `weights_sha256`, `effvision`, `family`,
            `counts`, `columns`.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        """Load the model; errors as `load`, InputError for options it does not take, SourceError for no folder to write to."""
        model = load(spec)
        self._answers: Answers = answers_for(model, spec["options"])
        self._save, self._suffix = spec["save_dir"], spec["save_as"] or next(iter(self._answers.saves), "")
        self._save_in = spec["save_in"]
        self._check_saving()
        self._count = 0
        self._row = {
            "card": model.metadata.card or str(spec["model"]),
            "weights_sha256": model.metadata.weights_sha256 or None,
            "effvision": __version__,
        }
        self.about = {
            **self._row,
            "family": model.family,
            "counts": self._answers.counts,
            "columns": dict(self._answers.columns),
        }

    def _check_saving(self) -> None:
        saves = self._answers.saves
        if self._save is not None and self._suffix not in saves:
            kinds = f"it saves as {', '.join(saves)}" if saves else "its rows say everything: leave --save-dir out"
            raise InputError(f"this model's answers for a file are not saved as {self._suffix or 'files'}; {kinds}")
        if self._save_in is not None:  # else every single file would have the error
            try:
                os.makedirs(self._save_in, exist_ok=True)
                if not os.access(self._save_in, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            except OSError as error:
                raise SourceError(
                    f"cannot write to the folder {self._save}: {error.strerror or error}\nhint: give another --save-dir"
                ) from error

    def _target(self, name: str, folder: str | None) -> Path | None:
        return None if folder is None else target_of(name, Path(folder), self._suffix)

    def row(self, task: Mapping[str, Any], beat: Callable[[], None]) -> dict[str, Any]:
        """Answer for one file; what goes wrong with it is in the row.

        Args:
            task: `name` as the user gave it, `path` where it lies, `attempt` from 1.
            beat: Called when the work got on.

        Raises:
            SourceError: the disk is full: not the file's fault.
        """
        self._count = 0

        def tell(count: int) -> None:
            self._count = count
            beat()

        began = time.perf_counter()
        saved = self._target(task["name"], self._save_in)
        found: dict[str, Any]
        try:
            if saved is not None:
                saved.parent.mkdir(parents=True, exist_ok=True)
            answer = self._answers(Path(task["path"]), name=task["name"], save=saved, tell=tell)
            found = {**answer.row, "status": "ok", self._answers.counts: answer.count}
            found["saved"] = None if saved is None else str(self._target(task["name"], self._save))
        except (Exception, SystemExit) as error:
            if saved is not None and _is_full(error):
                raise SourceError(f"{saved} could not be written: {_text(error)}") from error
            found = {**_error(error, task), self._answers.counts: self._count or None}
        row = {"path": task["name"], "attempts": task["attempt"], **found, **self._row}
        return {**{name: plain(value) for name, value in row.items()}, "seconds": time.perf_counter() - began}


def _error(error: BaseException, task: Mapping[str, Any]) -> dict[str, Any]:
    text = _text(error).replace(task["path"], task["name"])
    return {"status": "error", "error_type": type(error).__name__, "error": text}


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def plain(value: Any) -> Any:
    """Return plain data: arrays as lists, NumPy's numbers as Python's, no NaN and no infinity, text that is UTF-8."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -- the program -----------------------------------------------------------------------------------------------------------


def main() -> None:
    """Work as a process of the local engine; its first line says which model."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group: the parent ends its workers
    source, events = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not come between the events
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    waiting: queue.Queue[bytes] = queue.Queue()

    def listen() -> None:
        for line in source:
            waiting.put(line)
        os._exit(0)  # the parent is gone or wants no more

    threading.Thread(target=listen, daemon=True).start()

    def say(**event: Any) -> None:
        try:
            events.write(json.dumps(event).encode() + b"\n")
            events.flush()
        except BrokenPipeError:
            os._exit(0)

    try:
        worker = Worker(json.loads(waiting.get()))
    except Exception as error:
        say(event="failed", kind=type(error).__name__, text=_text(error), ours=isinstance(error, EffvisionError))
        return
    say(event="ready", about=worker.about)
    while True:
        _answer(worker, json.loads(waiting.get()), say)


def _answer(worker: Worker, task: Mapping[str, Any], say: Callable[..., None]) -> None:
    beaten = time.monotonic()

    def beat() -> None:
        nonlocal beaten
        if time.monotonic() - beaten > _BEAT_S:
            beaten = time.monotonic()
            say(event="beat")

    try:
        say(event="row", row=worker.row(task, beat))
    except SourceError as error:
        say(event="failed", kind="SourceError", text=str(error), ours=True)
