"""Files that appear whole: written under a temporary name beside the target, then moved into place."""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from effvision.errors import DTypeError, InputError, SourceError

__all__ = ["appearing", "as_path", "sha256", "write_bytes", "write_text"]

_LONGEST = 4000


def as_path(value: object, *, name: str = "path") -> Path:
    """Check that an argument can be a file's name and return it as a path.

    Raises:
        DTypeError: it is neither text nor a path object.
        InputError: it is empty, holds a null character, or is longer than any file's name.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise DTypeError(f"`{name}` must be text or a path; got {type(value).__name__}")
    text = os.fspath(value)
    if not isinstance(text, str):
        raise DTypeError(f"`{name}` must be text or a path; got {type(text).__name__}")
    if (
        not text
        or "\0" in text
        or len(text) > _LONGEST
        or any(len(os.fsencode(part)) > 255 for part in Path(text).parts)
    ):
        raise InputError(f"`{name}` is no file's name: {text[:60]!r}{'...' if len(text) > 60 else ''}")
    return Path(text)


@contextmanager
def appearing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path` (same suffix); on success it takes its place, on any error it is removed.

    Raises:
        SourceError: the folder does not exist, or the file cannot be written or moved.
    """
    target = as_path(path)
    if not target.parent.is_dir():
        raise SourceError(f"cannot write {target}: the folder {target.parent} does not exist\nhint: create it first")
    if target.is_dir():
        raise SourceError(f"cannot write {target}: it is a folder\nhint: give a file's name in it")
    temporary = target.with_name(f".{target.stem[:200]}.{secrets.token_hex(4)}{target.suffix}")
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # some writers make files that only their owner may read
        os.replace(temporary, target)
    except OSError as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write `data` so that the file appears whole; return its path."""
    with appearing(path) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write UTF-8 text so that the file appears whole; return its path."""
    return write_bytes(path, text.encode())


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


_UMASK_LOCK = threading.Lock()


def _umask() -> int:
    """The process's file mode mask; POSIX can only tell it by setting it."""
    with _UMASK_LOCK:
        mask = os.umask(0o022)
        os.umask(mask)
    return mask
