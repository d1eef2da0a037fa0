"""A model over many files: `effvision map`."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from effvision.host.boxes import xywh_to_xyxy

__all__ = ["run_map"]

_SHOWN_ERRORS = 20
_EVERY_S = 10.0  # between two lines where there is no terminal for a bar


def run_map(options: argparse.Namespace) -> int:
    """Run what the command line asks for; return its exit code: 1 with --strict if a file has an error, or if all have.

    Raises:
        EffvisionError: as `effvision.batch.map_files`.
    """
    from effvision.batch import map_files

    telling = _Telling(options)
    with _ending_on_sigterm():
        try:
            report = map_files(
                options.model,
                [pattern for patterns in options.inputs for pattern in patterns],
                options.out,
                options=_family_options(options),
                engine=options.engine,
                workers=options.workers,
                threads=options.threads,
                address=options.address,
                timeout_s=options.timeout,
                stall_s=options.stall,
                save_dir=options.save_dir,
                save_as=options.save_as,
                retry_errors=options.retry_errors,
                card=options.card,
                runtime=options.runtime,
                device=options.device,
                progress=True,
                on_begin=telling.begin,
                on_row=telling.row,
            )
        except KeyboardInterrupt:
            telling.stopped()
            return 1
    telling.end(report)
    return 1 if report.errors and (options.strict or report.errors == report.files) else 0


def _family_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the command line says for the family; the model refuses what is not for it."""
    boxes = [list(box) for box in options.box or []]
    if options.box_xywh:
        boxes += xywh_to_xyxy(options.box_xywh).tolist()
    given = {
        "boxes": boxes or None,
        "boxes_file": None if options.boxes is None else str(options.boxes),
        "detector": None if options.detector is None else str(options.detector),
        "every": options.every,
        "mode": options.mode,
        "columns": None if options.columns is None else list(options.columns),
        "drop_nonfinite": options.drop_nonfinite or None,
    }
    return {name: value for name, value in given.items() if value is not None}


@contextlib.contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """End as on Ctrl-C where a system asks for it: a container that is stopped, a job whose time is up."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Telling:
    """What is said on the way: errors, a line now and then where no bar is shown, and with --json every row."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._json, self._out = options.json, options.out
        self._bar = sys.stderr.isatty()
        self._files = self._done = self._errors = 0
        self._before = 0
        self._began_s = self._told_s = time.monotonic()

    def begin(self, files: int, already: int) -> None:
        self._files, self._done, self._before = files, already, already
        self._began_s = self._told_s = time.monotonic()
        if already:
            self._say(f"{already} of {files} files have a row already")

    def row(self, row: Mapping[str, Any]) -> None:
        self._done += 1
        if row["status"] == "error":
            self._errors += 1
            if self._errors <= _SHOWN_ERRORS:
                text = str(row["error"]).partition("\n")[0]
                self._say(f"effvision: {text if row['path'] in text else row['path'] + ': ' + text}")
            if self._errors == _SHOWN_ERRORS:
                self._say("effvision: further errors are only in the table")
        if self._json:
            self._line(row)
        now_s = time.monotonic()
        if not self._bar and now_s - self._told_s > _EVERY_S:
            self._told_s = now_s
            rate = (self._done - self._before) / max(1e-9, now_s - self._began_s)
            self._say(f"{self._done} of {self._files} files, {self._errors} errors, {rate:.2g} files a second")

    def stopped(self) -> None:
        self._say(f"stopped: {self._done} of {self._files} files are done and kept in {self._out}.parts")
        self._say("hint: the same command goes on from there")

    def end(self, report: Any) -> None:
        spent_s = time.monotonic() - self._began_s
        if self._json:
            self._line({**report.to_dict(), "seconds": round(spent_s, 3)})
        errors = f"{report.errors} with an error" if report.errors else "no errors"
        already = f" ({report.already} had a row before)" if report.already else ""
        wrote = f"wrote {report.out}" if report.done else f"nothing to do, {report.out} is complete"
        self._say(f"{wrote}: {report.files} files{already}, {errors}, {report.rows} rows; {spent_s:.1f} s")
        if report.errors and not report.done:
            self._say("hint: --retry-errors does those with an error again")

    @staticmethod
    def _line(data: Mapping[str, Any]) -> None:
        """Print JSON; what the terminal has no letters for must not end the run."""
        utf8 = "utf" in (sys.stdout.encoding or "").lower()
        print(json.dumps(data, ensure_ascii=not utf8), flush=True)

    @staticmethod
    def _say(text: str) -> None:
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)
