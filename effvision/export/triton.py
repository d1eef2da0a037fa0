"""A model for NVIDIA Triton Inference Server: a folder of its model repository, with a client that feeds it.

The state of a stream stays on the server (implicit state of its sequence batcher); what is done to a frame or a cloud before
and after the network stays with the client. No Triton server is needed to write one; `triton_config` writes its description.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effvision._files import as_path
from effvision.errors import ExportError, InputError, SourceError
from effvision.export.kit import appearing_kit, need_torch, template, write
from effvision.export.precision import Form, Int8
from effvision.export.report import ExportReport
from effvision.export.targets import SERVER
from effvision.export.triton_config import config_text
from effvision.export.triton_readme import fill_triton_readme
from effvision.export.vendored import vendored
from effvision.metadata import Metadata

__all__ = ["TritonReport", "export_triton"]

_OPSET = 17
_PACKAGE = "points"
_FRAMES = {"client.py": "triton_client.py", "session.py": "triton_session.py", "stream.py": "", "video.py": ""}
_CLOUDS = {"client.py": "triton_cloud_client.py", "session.py": "triton_session.py"}
_OURS = ("config.pbtxt", "labels.txt", "README.md", "1", "client")
_MARK = 'key: "effvision"'


@dataclass(frozen=True)
class TritonReport:
    """What was written for Triton; usable wherever a path is (`os.fspath`).

    Attributes:
        folder: The repository.
        model: Name of the model, and of its folder in it.
        files: Bytes of each file of the model by name.
        export: Of its `1/model.onnx`, with the check against PyTorch.
        state_bytes: Kept by the server for one stream; it holds that twice, before and after a step.
    """

    folder: Path
    model: str
    files: Mapping[str, int]
    export: ExportReport
    state_bytes: int

    def __fspath__(self) -> str:
        return str(self.folder)

    def __str__(self) -> str:
        width = max(map(len, self.files))
        kept = f", {self.state_bytes:,} bytes of state a stream" if self.state_bytes else ""
        lines = [
            f"{self.folder}  Triton's model repository: {self.model}, {sum(self.files.values()) / 1e6:.2f} MB{kept}",
            *(f"  {name:<{width}}  {size:>10,} bytes" for name, size in self.files.items()),
            *(f"  {line}" for line in str(self.export).splitlines()[1:]),
            f"  not run in a Triton server; {self.model}/README.md has the line that starts one",
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "folder": str(self.folder),
            "target": SERVER,
            "model": self.model,
            "files": dict(self.files),
            "export": self.export.to_dict(),
            "state_bytes": self.state_bytes,
        }


def export_triton(
    predictor: Any,
    folder: str | os.PathLike[str],
    *,
    names: Mapping[str, str] | None = None,
    frames: Any = None,
    half: bool = False,
    int8: Int8 | Form | None = None,
    notify: Callable[[str], None] | None = None,
) -> TritonReport:
    """Add a model to a Triton model repository; see `Predictor.export_kit`.

    Args:
        predictor: A `Predictor` in PyTorch that streams, or one of clouds.
        folder: The repository, made if it is not there. The model is a folder in it, named after its card; an earlier one of
            that name is replaced when everything was checked, others are left alone.
        names: Of a predictor of clouds: what its client takes, and from which module of ours; see `export_cloud_kit`.
        frames: As for `Predictor.export`.
        half: Compute in float16.
        int8: `cpu` alone.
        notify: Told what is going on.

    Raises:
        InputError: a model Triton cannot serve so, or a precision it has no use for.
        SourceError: the folder is in the way or cannot be written; nothing is left.
        ExportError: the model cannot be written, or a check failed; nothing is left.
    """
    repository, name = _check(predictor, folder, names, int8)
    made = not repository.exists()
    try:
        repository.mkdir(exist_ok=True)
        with appearing_kit(repository / name, free=_check_free) as temporary:
            report = _fill(temporary, predictor, name, names, frames=frames, half=half, int8=int8, notify=notify)
    except OSError as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"cannot write {repository}: {error.strerror or error}") from error
    finally:
        if made and repository.is_dir() and not any(repository.iterdir()):
            repository.rmdir()
    model, files, exported, state_bytes = report
    at = ExportReport(**{**vars(exported), "path": repository / name / "1" / "model.onnx"})
    return TritonReport(repository, model, files, at, state_bytes)


def _check(predictor: Any, folder: Any, names: Any, int8: Any) -> tuple[Path, str]:
    """Refuse before any work what cannot be served; return the repository and the model's name in it."""
    repository = as_path(folder, name="folder")
    if repository.suffix.lower() == ".onnx":
        raise InputError(f"a model repository is a folder; got {repository.name!r}\nhint: give a folder's name")
    need_torch(predictor, "a model repository")
    metadata: Metadata = predictor.metadata
    card = metadata.card or "this network"
    if list(metadata.graphs) != ["step"] or (metadata.task != "classification" and names is None):
        raise InputError(
            f"{card} cannot be served: there is a client for networks that work frame by frame, one step a frame, and for "
            "clouds\nhint: `export` without a target writes its ONNX file"
        )
    if int8 is not None and Int8.of(int8).form != "cpu":
        raise InputError(
            "int8 for TensorRT is not written for Triton: its ONNX Runtime would build an engine for every number of streams, "
            "and none was ever run\nhint: --fp16 for GPUs, --int8 cpu for processors"
        )
    if repository.exists() and not repository.is_dir():
        raise SourceError(f"cannot write {repository}: a file of that name is in the way\nhint: give another name")
    if not repository.absolute().parent.is_dir():
        parent = repository.parent
        raise SourceError(f"cannot write {repository}: there is no folder {parent}\nhint: mkdir -p {parent}")
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", metadata.card) or f"{predictor.family}-own"
    _check_free(repository / name)
    return repository, name


def _check_free(place: Path) -> None:
    """Refuse to replace anything that is not an earlier export of ours."""
    if not place.exists() and not place.is_symlink():
        return
    if not place.is_dir() or place.is_symlink():
        raise SourceError(f"cannot write {place}: a file of that name is in the way\nhint: give another repository")
    names = sorted(item.name for item in place.iterdir())
    try:
        ours = not names or _MARK in (place / "config.pbtxt").read_text("utf-8")
    except (OSError, ValueError):
        ours = False
    foreign = [name for name in names if name not in _OURS]
    if foreign or not ours:
        which = f"holds {', '.join(foreign[:3])}" if foreign else "was not written by effvision"
        raise SourceError(
            f"cannot write {place}: there is a model of that name, which {which}\n"
            "hint: give another repository, or move it away"
        )


def _fill(
    folder: Path, predictor: Any, name: str, names: Mapping[str, str] | None, *, frames: Any, **how: Any
) -> tuple[str, dict[str, int], ExportReport, int]:
    """Write everything into the model's folder."""
    import onnx

    from effvision.runtime.onnx import open_session, read_metadata

    (folder / "1").mkdir()
    (folder / "client").mkdir()
    real = frames if frames is None or names is None else predictor.real_inputs(frames)
    exported = predictor.export(folder / "1" / "model.onnx", batch="dynamic", opset=_OPSET, frames=real, **how)
    metadata = read_metadata(open_session(exported), where="the exported model")
    config = config_text(onnx.load(exported.path), metadata, name=name)
    if not config.isascii():
        raise ExportError(f"the model's name {name!r} cannot stand in config.pbtxt")
    write(folder / "config.pbtxt", config.encode())
    write(folder / "labels.txt", "".join(f"{label}\n" for label in metadata.labels).encode())
    programs = {file: template(source or file) for file, source in (_CLOUDS if names else _FRAMES).items()}
    if names is not None:
        programs |= vendored(names, _PACKAGE)
    for file, text in programs.items():
        path = folder / "client" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, text.replace("@MODEL@", name).encode())
    client = folder / "client" / "client.py"
    os.chmod(client, os.stat(client).st_mode | 0o111)
    state_bytes = predictor.initial_state().nbytes
    text = fill_triton_readme(template("triton_README.md"), metadata, name=name, state_bytes=state_bytes)
    write(folder / "README.md", text.encode())
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    return name, sizes, exported, state_bytes
