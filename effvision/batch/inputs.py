"""Which files are meant: patterns expanded once, sorted, each file once."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from effvision._files import as_path
from effvision.errors import InputError, SourceError
from effvision.sources.files import missing

__all__ = ["check_targets", "expand", "printable", "target_of"]


def printable(text: str) -> str:
    """Return text that is UTF-8 whatever bytes a file's name holds; a table takes nothing else."""
    if text.isascii():
        return text
    try:  # bytes of a name that are no UTF-8 stand in it as surrogates
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def expand(
    patterns: Iterable[str | os.PathLike[str]], *, leave_out: Sequence[Path], reads: Iterable[str] = ()
) -> list[str]:
    """Return the files of all patterns, each once, sorted, relative or absolute as they were given.

    Args:
        patterns: Files, which need not all be there (found when their turn comes); folders, which stand for the files at
            their top; patterns (`videos/**/*.mp4`), which find files, or folders where they end in a slash (`clips/*/`).
        leave_out: The output and folders below which nothing is an input.
        reads: Suffixes of the files that a folder stands for.

    Raises:
        InputError: a pattern that finds nothing, or no pattern at all.
        SourceError: names, and none of them is there.
    """
    given = [patterns] if isinstance(patterns, (str, os.PathLike)) else list(patterns)
    if not given:
        raise InputError("there is no input\nhint: --inputs 'videos/**/*.mp4'")
    found: dict[str, None] = {}
    for pattern in given:
        text = os.path.expanduser(as_path(pattern, name="inputs"))
        names = [name for name in _matches(str(text), str(pattern), tuple(reads)) if not _inside(name, leave_out)]
        if not names:
            raise InputError(
                f"{str(pattern)!r} finds no file\nhint: patterns are seen from {os.getcwd()}; ** goes into folders"
            )
        found |= dict.fromkeys(os.path.normpath(name) for name in names)
    if not any(os.path.lexists(name) for name in found):
        raise SourceError(missing(Path(next(iter(found)))))
    return sorted(_once(found))


def _matches(text: str, given: str, reads: tuple[str, ...]) -> list[str]:
    folders = given.endswith(("/", os.sep))
    if os.path.isdir(text):
        names = [entry.path for entry in os.scandir(text) if entry.is_file() and not entry.name.startswith(".")]
        names = [name for name in names if not reads or name.lower().endswith(reads)]
        if not names:
            raise InputError(
                f"the folder {text} holds no file this model reads ({', '.join(reads)})\n"
                f"hint: '{text}/**/*{reads[0] if reads else ''}' looks into the folders in it"
            )
        return names
    if glob.has_magic(text) and not os.path.lexists(text):
        found = [name for name in glob.glob(text + "/" * folders, recursive=True) if os.path.isdir(name) == folders]
        if "**" not in text:
            return found
        root, known = text[: text.index("**")].rpartition("/")[0], dict[str, tuple[str, ...]]()
        lines = [_line(name.rstrip("/") if folders else os.path.dirname(name), root, known) for name in found]
        return [name for name, line in zip(found, lines, strict=True) if len(set(line)) == len(line)]
    return [text]


def _line(folder: str, root: str, known: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return where a folder, and those above it up to `root`, really lie: one twice where a link leads back to it."""
    if folder not in known:
        above = os.path.dirname(folder)
        before = () if above == folder or folder == root else _line(above, root, known)
        known[folder] = (*before, os.path.realpath(folder))
    return known[folder]


def _inside(name: str, folders: Sequence[Path]) -> bool:
    path = os.path.abspath(name)
    return any(path == str(folder) or path.startswith(f"{folder}{os.sep}") for folder in folders)


def _once(names: Iterable[str]) -> list[str]:
    """Leave out a file that was named before in another way, relative or absolute."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(os.path.abspath(name), name)
    return list(first.values())


def check_targets(names: Iterable[str]) -> None:
    """Refuse inputs whose answers would be saved in one file.

    Raises:
        InputError: two of them, such as `/data/a.ply` and `data/a.ply`.
    """
    first: dict[Path, str] = {}
    for name in names:
        place = target_of(name, Path(), "")
        if first.setdefault(place, name) != name:
            raise InputError(
                f"{printable(first[place])} and {printable(name)} would be saved in one file of --save-dir\n"
                "hint: name all inputs by their full paths"
            )


def target_of(name: str, folder: Path, suffix: str) -> Path:
    """Return where what belongs to an input is saved: its own path below `folder`, its whole name and `suffix`."""
    tail = os.path.splitdrive(name)[1]
    parts = [part if part != ".." else "__" for part in Path(tail).parts if part not in ("/", "\\")]
    return folder.joinpath(*parts[:-1], parts[-1] + suffix)
