"""A kit: a folder that runs a model on a device with numpy, ONNX Runtime and OpenCV, checked here before it appears.

What is in it comes from `kit_files/` (programs and a README, the same for every model) and from the model's metadata. A file is
called `model.onnx` where the model is one graph; families of several will have `model-NAME.onnx` each, under `files` in
`model.json`, and runners of their own.
"""

from __future__ import annotations

import ast
import io
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from effvision._files import as_path
from effvision.errors import ExportError, InputError, SourceError
from effvision.export.device_check import check_device
from effvision.export.device_report import SILENT, DeviceReport
from effvision.export.golden import STEPS, record, shrink
from effvision.export.kit_readme import FILES, fill_readme
from effvision.export.precision import Form, Int8
from effvision.export.report import ExportReport, KitReport
from effvision.export.targets import Target, get_target
from effvision.metadata import Metadata, part_path
from effvision.sources import open_source

__all__ = [
    "appearing_kit",
    "checked_place",
    "export_kit",
    "need_torch",
    "predicted",
    "template",
    "tolerances",
    "verify",
    "write",
]

_FORMAT = 1
_TASKS = ("classification",)  # there is a runner for
_PROGRAMS = ("runner.py", "session.py", "stream.py", "video.py")
_TENSORRT_PROGRAMS = ("tensorrt_engine.py", "build_engine.sh")
_MADE = ("model.onnx", "model.json", "golden.npz", "labels.txt", "README.md")
_MADE_THERE = ("model.engine", "model.engine.from", "model.build.log", "timing.cache", "engine_cache", "__pycache__")
"""What using a kit leaves in it; it belongs to the model that is replaced, and goes with it."""
_OF_OTHERS = ("points", "tracking", "track.py")  # of kits for clouds and for tracking
_FRAMES = 64
_REASONS = 4  # of the device check, in the README
_VERIFY_TIMEOUT_S = 300


def export_kit(
    predictor: Any,
    target: str | Target,
    folder: str | os.PathLike[str],
    *,
    frames: Any = None,
    steps: int = 16,
    half: bool = False,
    int8: Int8 | Form | None = None,
    notify: Callable[[str], None] | None = None,
) -> KitReport:
    """Write a kit to `folder`; see `Predictor.export_kit`.

    Args:
        predictor: A `Predictor` in PyTorch that streams.
        target: A name of `effvision.export.targets.TARGETS`, or one of its values.
        folder: Made; an earlier kit there, or an empty folder, is replaced when everything was checked.
        frames: Source of real frames; the export is checked with them and they become `golden.npz`. Default: rendered ones.
        steps: Frames of each checked stream, 16 or more.
        half: Compute in float16.
        int8: `tensorrt` for boards with int8 units, `cpu` for the target `onnx`; or an `Int8`.
        notify: Told what is going on.

    Raises:
        InputError: no such target, a name that is no folder's, or a model a kit's runner cannot run.
        SourceError: the folder is in the way or cannot be written; nothing is left.
        ExportError: the model cannot be written for that target, or a check failed; nothing is left.
    """
    to = target if isinstance(target, Target) else get_target(target)
    place = _check(predictor, folder)
    _check_precision(to, half, int8)
    if frames is None:
        pictures = list(predictor.example_updates(STEPS, seed=0))
    else:
        with open_source(frames) as source:
            pictures = [frame.image for frame in islice(source, _FRAMES)]
        if not pictures:
            raise InputError("`frames` holds no frame\nhint: give a video or a folder of pictures, or leave it out")
    golden = record(predictor, [shrink(picture, predictor.metadata.preprocess) for picture in _alike(pictures)])
    with appearing_kit(place) as temporary:
        exported = predictor.export(
            temporary / "model.onnx",
            batch=1,
            opset=to.opset,
            steps=steps,
            frames=None if frames is None else pictures,
            half=half,
            int8=int8,
            notify=notify,
        )
        if exported.ir > to.ir:
            raise ExportError(f"the file has ONNX format {exported.ir}, and {to.title} reads up to {to.ir}")
        report = _fill(temporary, exported, to, golden)
    return report.at(place)


def _check(predictor: Any, folder: Any) -> Path:
    """Refuse before any work what cannot become a kit of frames; return the folder."""
    place = checked_place(predictor, folder)
    metadata: Metadata = predictor.metadata
    name = metadata.card or "this network"
    if metadata.task not in _TASKS:
        raise InputError(
            f"there is no runner for {metadata.task} yet; there is one for {', '.join(_TASKS)}\n"
            "hint: `export` without a target writes its ONNX file"
        )
    if list(metadata.graphs) != ["step"]:
        raise InputError(
            f"{name} cannot work frame by frame, which is what a kit's runner does on a camera\n"
            "hint: `export` without a target writes its ONNX file; for a camera use weights that stream"
        )
    return place


def checked_place(predictor: Any, folder: Any) -> Path:
    """Return where a kit may appear.

    Raises:
        InputError: a file's name, or a model that is not in PyTorch.
        SourceError: there is no such folder to put it in, or something else is in the way.
    """
    place = as_path(folder, name="folder")
    if place.suffix.lower() == ".onnx":
        raise InputError(f"a kit is a folder; got {place.name!r}\nhint: give a folder's name, or leave the target out")
    need_torch(predictor, "a kit")
    if not place.absolute().parent.is_dir():
        raise SourceError(f"cannot write {place}: there is no folder {place.parent}\nhint: mkdir -p {place.parent}")
    _check_free(place)
    return place


def need_torch(predictor: Any, what: str) -> None:
    """Refuse a model that cannot be exported.

    Raises:
        InputError: it runs from an exported file.
    """
    if predictor.runtime.name != "torch":
        raise InputError(
            f"{what} is written from PyTorch, and this model runs in {predictor.runtime.name}\n"
            "hint: from_pretrained(CARD, runtime='torch').export_kit(...)"
        )


def _check_precision(target: Target, half: bool, int8: Any) -> None:
    """Refuse what the target's hardware has not, or has in another form."""
    if int8 is None:
        return
    how = Int8.of(int8)
    if not target.int8:
        raise InputError(
            f"{target.devices.partition(',')[0]} and its like under {target.title} have no int8 units: it would not be faster\n"
            "hint: leave it out; build_engine.sh uses half precision, which they have"
        )
    if target.tensorrt is None and how.form != "cpu":
        raise InputError(
            f"int8 for TensorRT is for boards that have it; the target {target.name} has not\nhint: --int8 cpu, or "
            "--target jp62 and the like"
        )
    if target.tensorrt is not None and how.form != "tensorrt":
        raise InputError(
            f"int8 for processors is not what TensorRT on {target.title} reads\n"
            f"hint: --int8 tensorrt for --target {target.name}"
        )


def _check_free(place: Path) -> None:
    """Refuse to replace anything that is not an earlier kit of ours and what using it left there."""
    if not place.exists() and not place.is_symlink():
        return
    if not place.is_dir() or place.is_symlink():
        raise SourceError(f"cannot write the kit {place}: a file of that name is in the way\nhint: give another name")
    names = sorted(item.name for item in place.iterdir())
    if not names:
        return
    known = {*_PROGRAMS, *_TENSORRT_PROGRAMS, *_MADE, *_MADE_THERE, *_OF_OTHERS}
    foreign = [name for name in names if name not in known]
    try:
        ours = json.loads((place / "model.json").read_text("utf-8"))["kit"] == _FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if foreign or not ours:
        which = f"it holds {', '.join(foreign[:3])}" if foreign else "it is no kit that effvision wrote"
        raise SourceError(
            f"cannot write the kit {place}: the folder exists and {which}\n"
            "hint: give a new folder, or move its files away"
        )


def _alike(pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The first frames that have the first one's size: a folder of pictures may hold several."""
    return [picture for picture in pictures if picture.shape == pictures[0].shape][:STEPS]


def _fill(folder: Path, exported: ExportReport, target: Target, golden: dict[str, np.ndarray]) -> KitReport:
    """Write everything beside the model; the README last, for it tells what the check of the rest measured."""
    from effvision.runtime.onnx import open_session, read_metadata

    metadata = read_metadata(open_session(exported), where="the exported model")
    block = json.loads(metadata.to_json())
    described = {
        "kit": _FORMAT,
        "target": target.name,
        "files": {name: part_path(exported.path, name, metadata.graphs).name for name in metadata.graphs},
        "sha256": {part.path.name: part.sha256 for part in (exported, *exported.parts)},
        "effvision": block,
    }
    write(folder / "model.json", json.dumps(described, indent=1, sort_keys=True, ensure_ascii=False).encode())
    write(folder / "labels.txt", "".join(f"{label}\n" for label in metadata.labels).encode())
    packed = io.BytesIO()
    np.savez_compressed(packed, **golden)  # type: ignore[arg-type]
    write(folder / "golden.npz", packed.getvalue())
    release = "" if target.tensorrt is None else ".".join(map(str, target.tensorrt))
    for name in [*_PROGRAMS, *(_TENSORRT_PROGRAMS if target.tensorrt else ())]:
        text = template(name).replace("@TENSORRT@", release).replace("@PRECISION@", metadata.number_kind)
        write(folder / name, text.encode())
        if name in ("runner.py", "build_engine.sh"):
            os.chmod(folder / name, os.stat(folder / name).st_mode | 0o111)
    device = check_device(folder / "model.onnx", target)
    if device.verdict == SILENT:
        raise ExportError(f"a kit for {target.title} would give wrong numbers\n{device}")
    verified = verify(folder)
    files = [name for name in (*_MADE, *_PROGRAMS, *_TENSORRT_PROGRAMS) if (folder / name).exists()]
    text = fill_readme(
        template("README.md"),
        metadata,
        target,
        files=[name for name in FILES if name in files or name == "README.md"],
        steps=STEPS,
        tolerances=tolerances(),
        verified=verified,
        device_check=predicted(device),
    )
    write(folder / "README.md", text.encode())
    sizes = {name: (folder / name).stat().st_size for name in sorted([*files, "README.md"])}
    return KitReport(folder, target.name, sizes, exported, verified, device)


def predicted(device: DeviceReport) -> str:
    """Say in a line what the device check found."""
    nodes = ", ".join(f"{count} {verdict}" for verdict, count in device.counts.items() if count)
    reasons = list(dict.fromkeys(finding.reason for finding in device.problems))
    why = "; ".join(reasons[:_REASONS]) + (f"; and {len(reasons) - _REASONS} more" if len(reasons) > _REASONS else "")
    return f"{device.verdict} ({nodes} nodes; table {device.table}){': ' + why if why else ''}."


def template(name: str) -> str:
    """Return a file of `kit_files`."""
    return resources.files("effvision.export").joinpath("kit_files", name).read_text("utf-8")


def write(path: Path, data: bytes) -> None:
    """Write a file of a kit."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # a full disk says so here, and not after the folder was moved into place


def tolerances(program: str = "runner.py") -> dict[str, tuple[float, float]]:
    """Read the limits where the runner has them, so that the README cannot say others."""
    for node in ast.parse(template(program)).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "TOLERANCES":
            found: dict[str, tuple[float, float]] = ast.literal_eval(node.value)
            return found
    raise ExportError("the runner's template has no TOLERANCES: this installation of effvision is damaged")


def verify(folder: Path, *check: str) -> str:
    """Run the kit's own check as a user will; return what it measured.

    Args:
        folder: Of the kit.
        *check: The program and its arguments. Default: those of a kit whose program is `runner.py`.

    Raises:
        ExportError: it failed; its own words are in the message.
    """
    command = [sys.executable, *(check or ("runner.py", "--verify", "golden.npz")), "--provider", "cpu"]
    variables = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "utf-8"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=variables, capture_output=True, text=True, timeout=_VERIFY_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ExportError(f"the kit's own check could not be run: {error}") from error
    lines = done.stderr.strip().splitlines()
    if done.returncode != 0:
        raise ExportError("the kit's own check failed: " + "; ".join(lines[-4:]))
    return "; ".join(" ".join(line.split()[1:]) for line in lines if line.startswith("ok "))


def _check_whole(folder: Path) -> None:
    """Read back what was written, as a last look before the folder appears."""
    empty = [item.name for item in folder.rglob("*") if item.stat().st_size == 0 and item.name != "__init__.py"]
    if empty:
        raise ExportError(f"{', '.join(empty)} of the kit came out empty: is the disk full?")


@contextmanager
def appearing_kit(place: Path, *, free: Callable[[Path], None] = _check_free) -> Iterator[Path]:
    """Yield a temporary folder beside `place`; on success it takes its place, on any error it is removed.

    Args:
        place: Of the kit.
        free: Raises an error if what is there must not be replaced.
    """
    place = place.absolute()
    temporary = place.with_name(f".{place.name[:200]}.{secrets.token_hex(4)}")
    old = place.with_name(f"{temporary.name}.old")
    try:
        temporary.mkdir()
        yield temporary
        _check_whole(temporary)
        free(place)  # the work took a while
        if place.exists():
            os.replace(place, old)
        try:
            os.replace(temporary, place)
        except OSError:
            if old.exists():
                os.replace(old, place)
            raise
    except OSError as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        if isinstance(error, SourceError) and cause is error:
            raise
        raise SourceError(f"cannot write the kit {place}: {cause.strerror or cause}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if place.exists():  # else the earlier kit could not be put back, and is all there is
            shutil.rmtree(old, ignore_errors=True)
