"""Label clouds of points and save, print or count what the model answers: `effvision run` for models that take clouds."""

from __future__ import annotations

import argparse
import glob
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effvision.errors import EffvisionError, InputError, SourceError

__all__ = ["CLOUD_FORMATS", "run_clouds"]

CLOUD_FORMATS = (".ply", ".npz", ".png", ".jpg", ".jpeg", ".json")
"""What a labelled cloud is saved as."""


def run_clouds(model: Any, options: argparse.Namespace) -> int:
    """Run what the command line asks for; return its exit code: 1 if a cloud could not be labelled, the others go on.

    Raises:
        InputError: options that are for frames, or a source that holds frames.
        SourceError: a source that cannot be read, or a file that cannot be written.
    """
    _refuse(options)
    files = _files(options.source)
    targets = _targets(options.save, files)
    failed, points, started = 0, 0, time.perf_counter()
    session = model.session(progress=sys.stderr.isatty())
    for place, (file, target) in enumerate(zip(files, targets, strict=True)):
        try:
            result = session.update(_opened(file, options))
            if target is not None:
                result.save(target)
        except EffvisionError as error:
            if len(files) == 1:
                raise
            failed += 1
            _say(f"effvision: {error}" if str(error).startswith(str(file)) else f"effvision: {file}: {error}")
            if options.json:
                print(json.dumps({"source": str(file), "error": str(error)}, ensure_ascii=False), flush=True)
            continue
        points += len(result)
        _show(file, result, as_json=options.json, first=place == 0)
        if target is not None:
            _say(f"wrote {target}")
    spent_s = time.perf_counter() - started
    if len(files) > 1:
        _say(f"{len(files) - failed} of {len(files)} clouds, {points:,} points in {spent_s:.1f} s ({model!r})")
    else:
        timing = result.timing
        parts = f"reading and preparing {timing.prepare_ms:,.0f} ms, network and votes {timing.run_ms:,.0f} ms"
        _say(f"{points:,} points in {spent_s:.1f} s: {parts} ({model!r})")
    return 1 if failed else 0


def _opened(file: Any, options: argparse.Namespace) -> Any:
    """Read a file here where the command line says how; else the model reads it."""
    if options.columns is None and not options.drop_nonfinite:
        return file
    from effvision.sources import open_cloud

    return open_cloud(file, columns=options.columns, drop_nonfinite=options.drop_nonfinite)


def _refuse(options: argparse.Namespace) -> None:
    """Refuse what is for frames."""
    for name in ("smooth", "every_frame"):
        if getattr(options, name):
            raise InputError(
                f"--{name.replace('_', '-')} is for streams of frames; {options.model} labels clouds\nhint: leave it out"
            )
    if options.show:
        raise InputError(
            "--show is for frames\nhint: --save picture.png draws the cloud; --save coloured.ply opens in any viewer of points"
        )
    path = options.save
    if path is not None and not path.is_dir() and path.suffix.lower() not in CLOUD_FORMATS:
        raise InputError(f"--save writes a labelled cloud as {', '.join(CLOUD_FORMATS)}; got {path.name!r}")


def _files(words: Sequence[str]) -> list[Any]:
    """Return the files of all sources, folders and patterns opened; refuse cameras, addresses, videos and pictures."""
    from effvision.sources.cloud_stream import open_clouds, refuse_frames

    found: list[Any] = []
    for word in words:
        camera = re.fullmatch(r"[0-9]{1,3}", word) and not Path(word).exists()
        refuse_frames(int(word) if camera else word)
        if len(words) > 1 and not glob.has_magic(word) and not Path(word).is_dir():
            found.append(Path(word))  # whether it is there is found when its turn comes: the others go on
        else:
            found += open_clouds(word).files
    return found


def _targets(path: Path | None, files: Sequence[Any]) -> list[Path | None]:
    """Return what to write for each file: `path` itself for one, a `.ply` in the folder `path` for several."""
    if path is None:
        return [None] * len(files)
    if not path.is_dir():
        if len(files) > 1:
            raise InputError(
                f"--save writes one cloud for each of {len(files)} files, so it takes a folder that exists; got {path}\n"
                f"hint: mkdir -p {path.with_suffix('')}"
            )
        targets = [path]
    else:
        names = [Path(file).stem for file in files]
        taken = set(names)
        targets = []
        for place, name in enumerate(names, 1):
            given = name
            if names.count(name) > 1:
                given = f"{place}-{name}"
                while given in taken:
                    given += "-again"
            taken.add(given)
            targets.append(path / f"{given}.ply")
    read = {Path(file).resolve() for file in files}
    for target in targets:
        if target.resolve() in read:
            raise SourceError(f"--save would write over {target}, which is read\nhint: give another name or folder")
    return list(targets)


def _show(file: Any, result: Any, *, as_json: bool, first: bool) -> None:
    """Print one cloud: a table of its classes, or one object."""
    if as_json:
        print(json.dumps({"source": str(file), **result.to_dict()}, ensure_ascii=False), flush=True)
        return
    counts = result.counts
    width = max(map(len, counts))
    digits = max(len(f"{count:,}") for count in counts.values())
    total = max(1, len(result))
    print(f"{'' if first else chr(10)}{file}: {len(result):,} points")
    for name, count in counts.items():
        bar = "#" * round(30 * count / total)
        print(f"  {name:<{width}}  {count:>{digits},}  {100 * count / total:5.1f} %  {bar}".rstrip())
    sys.stdout.flush()


def _say(text: str) -> None:
    print(text, file=sys.stderr)
