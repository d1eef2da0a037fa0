"""A model over many files, a row of one table for each.

Rows are on the disk as soon as they are done, in the folder `OUT.parts`, and the table appears whole at the end. So a run that
was cut off, however it was, goes on when it is called again: files that have a row are not read again, files that are new are
added. What is wrong with one file is in its row, and the others go on. A worker that dies costs its file a second try.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tqdm import tqdm

from effvision._files import as_path
from effvision.batch.crew import Crew
from effvision.batch.inputs import check_targets, expand, printable
from effvision.batch.ledger import FORMAT, Ledger
from effvision.batch.schedule import Limits, run_tasks
from effvision.batch.settings import MapSettings
from effvision.batch.table import all_columns, fits, require_arrow
from effvision.loading import RuntimeName

__all__ = ["MapReport", "map_files"]


@dataclass(frozen=True)
class MapReport:
    """What a run did.

    Attributes:
        out: The table.
        files: Files that were asked for, each once.
        already: Those of them that had a row before.
        done: Those this run has made a row for.
        errors: Files that were asked for whose row, old or new, has an error.
        rows: Rows of the table, those of earlier runs included.
    """

    out: str
    files: int
    already: int
    done: int
    errors: int
    rows: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def map_files(
    model: str | os.PathLike[str],
    inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    options: Mapping[str, Any] | None = None,
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
    threads: int | None = None,
    address: str | None = None,
    timeout_s: float | None = None,
    stall_s: float = 300.0,
    save_dir: str | os.PathLike[str] | None = None,
    save_as: str | None = None,
    retry_errors: bool = False,
    card: str | None = None,
    runtime: RuntimeName | None = None,
    device: str = "cpu",
    progress: bool = False,
    on_begin: Callable[[int, int], None] | None = None,
    on_row: Callable[[Mapping[str, Any]], None] | None = None,
) -> MapReport:
    """Run a model over many files and write a Parquet table with exactly one row for each; see `effvision.batch.table`.

    The arguments are those of `effvision.batch.settings.MapSettings`, which says what each is, and two functions: `on_begin` is
    told how many files there are and how many of them have a row already, `on_row` each row when it is safe.

    Raises:
        InputError: no file, a setting that cannot be used, or a table that has rows of another model or of other options.
        SourceError: the output cannot be written, or another run writes it. What is done is kept.
        RuntimeFailure: workers die before they do anything, or the cluster has no room.
        EffvisionError: the model cannot be loaded, as by `Predictor.from_pretrained`; pyarrow or Ray is missing.
    """
    settings = MapSettings(
        model=model,
        out=as_path(out, name="out"),
        options=options,
        engine=engine,
        workers=workers,
        threads=threads,
        address=address,
        timeout_s=timeout_s,
        stall_s=stall_s,
        save_dir=save_dir,
        save_as=save_as,
        retry_errors=retry_errors,
        card=card,
        runtime=runtime,
        device=device,
        progress=progress,
    )
    return _run(settings, inputs, on_begin, on_row)


def _run(
    settings: MapSettings,
    inputs: Any,
    on_begin: Callable[[int, int], None] | None,
    on_row: Callable[[Mapping[str, Any]], None] | None,
) -> MapReport:
    require_arrow()
    files = expand(inputs, leave_out=settings.not_inputs(), reads=settings.reads())
    if settings.save_dir is not None:
        check_targets(files)
    with Ledger(settings.out) as ledger:
        ledger.check(**settings.known())
        todo = [file for file in files if _is_due(ledger.states.get(printable(file)), settings.retry_errors)]
        if on_begin is not None:
            on_begin(len(files), len(files) - len(todo))
        if todo:
            with tqdm(total=len(files), initial=len(files) - len(todo), unit="file", disable=_hidden(settings)) as bar:
                _work(settings, todo, _Rows(ledger, settings, on_row, bar))
        rows = ledger.finish() if ledger.begun else len(ledger.states)
        errors = sum(ledger.states.get(printable(file)) == "error" for file in files)
    return MapReport(str(settings.out), len(files), len(files) - len(todo), len(todo), errors, rows)


def _hidden(settings: MapSettings) -> bool | None:
    return None if settings.progress else True  # None: shown where standard error is a terminal


def _is_due(state: str | None, retry_errors: bool) -> bool:
    return state is None or (retry_errors and state == "error")


def _work(settings: MapSettings, todo: list[str], rows: _Rows) -> None:
    count = min(settings.most_workers, len(todo))
    spec = settings.spec(count)
    crew = _crew(settings, spec)
    try:
        run_tasks(
            crew,
            ({"name": name, "path": os.path.abspath(name)} for name in todo),
            workers=crew.most(count),
            limits=Limits(settings.timeout_s, settings.stall_s),
            on_ready=rows.begin,
            on_row=rows.add,
            on_tick=rows.tick,
        )
    finally:
        crew.close()


def _crew(settings: MapSettings, spec: Mapping[str, Any]) -> Crew:
    if settings.engine == "ray":
        from effvision.batch.on_ray import RayCrew

        return RayCrew(spec, settings.address)
    from effvision.batch.local import LocalCrew

    return LocalCrew(spec)


@dataclass
class _Rows:
    """Takes rows as they come and passes on those that fit the table."""

    ledger: Ledger
    settings: MapSettings
    on_row: Callable[[Mapping[str, Any]], None] | None
    bar: Any
    _names: tuple[str, ...] = ()
    _why_not: Callable[[Mapping[str, Any]], str | None] = field(default=lambda row: None)

    def begin(self, about: Mapping[str, Any]) -> None:
        """Open the ledger for the model that was loaded."""
        shared = ("card", "weights_sha256", "family", "counts", "columns")
        identity = {"format": FORMAT, **{name: about[name] for name in shared}, **self.settings.known()}
        identity["card"] = about["card"]
        self.ledger.begin(identity)
        self._names, self._why_not = tuple(all_columns(identity)), fits(identity)

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a row; one that does not fit the table becomes an error, now and not at the end of the run."""
        if why := self._why_not(row):
            kept = {name: row[name] for name in ("path", "attempts", "card", "weights_sha256", "effvision")}
            text = f"the answer does not fit the table's columns: {why}"
            row = {
                **kept,
                "status": "error",
                "error_type": "InputError",
                "error": printable(text),
                "seconds": row["seconds"],
            }
        whole = {name: row.get(name) for name in self._names}
        self.ledger.add(whole)
        self.bar.update()
        if self.on_row is not None:
            self.on_row(whole)

    def tick(self) -> None:
        """Have on the disk what is not, and show how long it takes, once a second."""
        if self.ledger.sync_if_due():
            self.bar.refresh()
