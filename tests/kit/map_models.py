"""A model for the tests of `effvision map` that costs nothing: what it does with a file is written in the file.

ok 3            three inputs
slow 0.2        the same after so many seconds
hang            never comes back, and gives no sign of life
busy 5          gives signs of life for so many seconds
die             kills its own process; `die once FILE` only where FILE is not there, which it makes
bad             raises one of our errors; `odd` one that is none
misfit          answers what does not fit the columns
full            finds the disk full when it saves
"""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from effvision.answers import Answer, Answers
from effvision.errors import InputError

COLUMNS = {"word": "string", "values": ["float32"], "nested": [{"name": "string", "number": "int64"}]}


class Cheap(Answers):
    columns = COLUMNS
    saves = (".txt",)

    def __call__(self, path: Path, *, name: str, save: Path | None, tell: Any) -> Answer:
        word, *rest = path.read_text("utf-8").split()
        tell(1)
        count = 1
        if word in ("slow", "busy"):
            until = time.monotonic() + float(rest[0])
            while time.monotonic() < until:
                time.sleep(0.01)
                if word == "busy":
                    tell(count := count + 1)
        elif word == "hang":
            time.sleep(600)
        elif word == "die" and not (rest and Path(rest[1]).exists()):
            if rest:
                Path(rest[1]).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        elif word == "bad":
            raise InputError(f"{path} is bad\nhint: give another")
        elif word == "odd":
            raise ZeroDivisionError("so odd")
        elif word == "full":
            raise InputError("cannot be written") from OSError(errno.ENOSPC, "No space left on device")
        elif word == "ok":
            count = int(rest[0])
        if save is not None:
            save.write_text(word)
        row = {"word": word, "values": [0.5, float("nan")], "nested": [{"name": name, "number": count}]}
        return Answer(row if word != "misfit" else {"word": "x", "values": "three"}, count)


class Other(Cheap):
    columns = {"word": "string"}  # noqa: RUF012


class _Model:
    family = "tests"

    def __init__(self, kind: type[Answers], sha256: str = "0" * 64) -> None:
        self._kind = kind
        self.metadata = SimpleNamespace(card="cheap", weights_sha256=sha256)

    def for_files(self, *, option: int = 0) -> Answers:
        if option < 0:
            raise InputError(f"`option` must be 0 or more; got {option}")
        return self._kind(self)


def cheap() -> Any:
    return _Model(Cheap)


def renewed() -> Any:
    """The same card with other weights."""
    return _Model(Cheap, "1" * 64)


def other() -> Any:
    """The same card with other columns."""
    return _Model(Other)


def broken() -> Any:
    """Dies while it loads."""
    os.kill(os.getpid(), signal.SIGKILL)
