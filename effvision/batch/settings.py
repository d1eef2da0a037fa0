"""What a run over many files is told, checked before anything is loaded."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effvision._files import as_path
from effvision.batch.worker import is_builder, plain
from effvision.cards import get_card, predictor_class
from effvision.errors import DTypeError, InputError
from effvision.loading import check_choices

__all__ = ["MapSettings", "available_cores"]

_MOST_WORKERS = 1024
_USUAL_WORKERS = 8
_FILES = (".onnx", ".safetensors", ".pth", ".pt", ".tar", ".ckpt", ".bin")
_PATHS = ("boxes_file", "detector")  # options that name a file


def available_cores() -> int:
    """Return the cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class MapSettings:
    """Everything `map_files` is told but the files.

    Attributes:
        model: A card's name, a checkpoint, an exported `.onnx` file, or `module:function`: a function without arguments that
            makes a predictor and can be imported where the workers are.
        out: The table, `.parquet`, in a folder that exists.
        options: Of the family, as its `for_files` takes them: `columns` of clouds, `boxes` or `detector` of PatchNet.
        engine: `local`: processes on this machine. `ray`: actors of Ray, on this machine or on the cluster at `address`.
        workers: How many. Default: one a core, 8 at most.
        threads: Of each worker. Default: cores over workers.
        address: Of a Ray cluster that is there. Its machines need this package, the model and the files under the same paths.
        timeout_s: Seconds one file may take. Default: any time, as long as it gets on.
        stall_s: Seconds without another frame or block of points after which a worker is taken to hang and is replaced.
        save_dir: A folder for the full answers, where a row cannot hold them: labels of each point, boxes of each frame. Files
            in it keep the paths of the inputs, and are never inputs themselves.
        save_as: Suffix of these files. Default: `.npz` for clouds, `.csv` for objects that were followed.
        retry_errors: Do files again whose row has an error.
        card: The card of a checkpoint.
        runtime: As in `Predictor.from_pretrained`; a card with a bundled exported file runs in ONNX Runtime unless told.
        device: As there. On Ray each worker on `cuda` has a GPU of its own.
        progress: Show a bar on standard error where that is a terminal.

    Raises:
        InputError: a setting that cannot be used.
        CardError: the model is no card and no file.
    """

    model: Any
    out: Path
    options: Mapping[str, Any] | None = None
    engine: str = "local"
    workers: int | None = None
    threads: int | None = None
    address: str | None = None
    timeout_s: float | None = None
    stall_s: float = 300.0
    save_dir: Any = None
    save_as: str | None = None
    retry_errors: bool = False
    card: str | None = None
    runtime: Any = None
    device: str = "cpu"
    progress: bool = False
    name: str = field(init=False, default="")

    def __post_init__(self) -> None:
        if self.out.suffix.lower() != ".parquet":
            raise InputError(
                f"--out is a Parquet table; got {self.out.name!r}\nhint: --out {self.out.with_suffix('.parquet')}"
            )
        if self.engine not in ("local", "ray"):
            raise InputError(f"`engine` must be 'local' or 'ray'; got {self.engine!r:.80}")
        if self.address is not None and self.engine != "ray":
            raise InputError("`address` is that of a Ray cluster: give engine='ray' (--engine ray) too")
        check_choices(self.runtime, self.device, self.threads, self.card)
        count = self.workers
        if count is not None and (
            isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= _MOST_WORKERS
        ):
            raise InputError(f"`workers` must be 1 to {_MOST_WORKERS}; got {count!r:.80}")
        for name in ("timeout_s", "stall_s"):
            _check_seconds(name, getattr(self, name))
        if self.options is not None and not isinstance(self.options, Mapping):
            raise DTypeError(f"`options` must map names to values; got {type(self.options).__name__}")
        try:
            json.dumps(plain(self.options or {}))
        except TypeError as error:
            raise DTypeError(f"`options` must be plain data, for they go to other processes: {error}") from error
        if self.save_as is not None and self.save_dir is None:
            raise InputError("`save_as` is the suffix of what is written to `save_dir` (--save-dir): give that too")
        object.__setattr__(self, "name", self._model_name())

    def _model_name(self) -> str:
        """The card's own name, for that of a family; otherwise what was given."""
        name = str(as_path(self.model, name="model"))
        if self.is_file(name) or is_builder(name):
            return name
        return get_card(name).name

    def is_file(self, name: str | None = None) -> bool:
        """Whether the model is a file."""
        given = name or self.name
        return Path(given).suffix.lower() in _FILES or os.path.isfile(given)

    @property
    def most_workers(self) -> int:
        """How many workers there are, if there are as many files."""
        return self.workers or min(available_cores(), _USUAL_WORKERS)

    def known(self) -> dict[str, Any]:
        """Return what can be said of the rows before the model is loaded."""
        card = {} if self.is_file() or is_builder(self.name) else {"card": self.name}
        return {**card, "options": plain(self.options or {})}

    def reads(self) -> tuple[str, ...]:
        """Return the suffixes of files that are taken from a folder; none: all."""
        if "card" not in self.known():
            return ()
        suffixes: tuple[str, ...] = predictor_class(get_card(self.name).family).reads
        return suffixes

    def not_inputs(self) -> list[Path]:
        """Return the files and folders below which nothing is an input."""
        own = [self.out, self.out.with_name(f"{self.out.name}.parts")]
        return [Path(os.path.abspath(path)) for path in (*own, *([self.save_dir] if self.save_dir is not None else []))]

    def spec(self, workers: int) -> dict[str, Any]:
        """Return what each of so many workers is told; files by their full path: it may have another working folder."""
        options = dict(self.known()["options"])
        options |= {name: os.path.abspath(options[name]) for name in _PATHS if options.get(name)}
        saved = None if self.save_dir is None else str(as_path(self.save_dir, name="save_dir"))
        return {
            "model": os.path.abspath(self.name) if self.is_file() else self.name,
            "card": self.card,
            "runtime": self.runtime,
            "device": self.device,
            "threads": self.threads or max(1, available_cores() // workers),
            "workers": workers,
            "options": options,
            "save_dir": saved,
            "save_in": None if saved is None else os.path.abspath(saved),
            "save_as": self.save_as,
            "progress": self.progress,
        }


def _check_seconds(name: str, value: object) -> None:
    if value is None and name == "timeout_s":
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (0 < value < math.inf):
        raise InputError(f"`{name}` must be seconds above 0; got {value!r:.80}")
