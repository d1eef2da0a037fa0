"""The part of `effvision run` that edits pictures: label maps in order, one line for each step."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from effvision.errors import InputError, SourceError
from effvision.running_tracks import refuse_tracking

__all__ = ["PICTURES", "refuse_edits", "run_edits"]

PICTURES = (".png", ".jpg", ".jpeg")


def refuse_edits(options: argparse.Namespace) -> None:
    """Refuse options of models that edit pictures for one that does not.

    Raises:
        InputError: one of them was given.
    """
    if options.mode is not None:
        raise InputError(
            f"--mode is for models that edit pictures, such as sige; not for {options.model}: leave it out"
        )


def run_edits(model: Any, options: argparse.Namespace) -> int:
    """Draw the label maps in order, each compared with the one before; return the exit code.

    Raises:
        InputError: an option that is not for label maps, or --save with a name that is not written.
        SourceError: a file that cannot be read or written.
    """
    refuse_tracking(options)
    _refuse(options)
    steps, spent, last = 0, 0.0, None
    given = {} if options.mode is None else {"mode": options.mode}
    for last in model.stream(options.source, images=False, **given):
        steps, spent = steps + 1, spent + last.timing.total_ms
        _show(last, as_json=options.json)
        if options.save is not None and options.save.is_dir():
            last.save(options.save / f"{last.index:04d}.png")
    if last is not None and options.save is not None:
        if not options.save.is_dir():
            last.save(options.save)
        print(f"wrote {options.save}", file=sys.stderr)
    print(f"{steps} steps, {spent / max(1, steps):.1f} ms a step ({model!r})", file=sys.stderr)
    return 0


def _refuse(options: argparse.Namespace) -> None:
    """Refuse what is for frames or clouds, and names of pictures that are not written."""
    for name in ("smooth", "every_frame", "show", "columns", "drop_nonfinite"):
        if getattr(options, name):
            raise InputError(
                f"--{name.replace('_', '-')} is not for label maps, which {options.model} takes\nhint: leave it out"
            )
    path: Path | None = options.save
    if path is None:
        return
    if not path.is_dir() and path.suffix.lower() not in PICTURES:
        raise InputError(
            f"--save writes the last picture as {', '.join(PICTURES)}, or each one into a folder that exists; got {path.name!r}"
        )
    read = {Path(word).resolve() for word in options.source}
    if path.resolve() in read or (path.is_dir() and path.resolve() in {place.parent for place in read}):
        raise SourceError(f"--save would write into {path}, which is read\nhint: give another name or folder")


def _show(result: Any, *, as_json: bool) -> None:
    """Print one step: how much was computed, and how long it took."""
    if as_json:
        print(result.to_json(), flush=True)
        return
    timing = result.timing
    note = f"  ({result.note})" if result.note else ""
    print(
        f"step {result.index:4}  computed {result.computed_fraction:6.1%}  wrote {result.changed_fraction:6.1%} of the picture "
        f"{timing.total_ms:7.1f} ms ({timing.run_ms:.1f} in the network){note}",
        flush=True,
    )
