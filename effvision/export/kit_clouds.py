"""A kit for clouds: a folder that labels files of points with numpy and ONNX Runtime, checked here before it appears."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effvision.clouds import Cloud
from effvision.errors import ExportError, InputError
from effvision.export.device_check import check_device
from effvision.export.device_report import SILENT
from effvision.export.kit import appearing_kit, checked_place, predicted, template, tolerances, verify, write
from effvision.export.kit_readme import fill_cloud_readme
from effvision.export.report import ExportReport, KitReport
from effvision.export.targets import Target, get_target
from effvision.export.vendored import vendored
from effvision.metadata import Metadata

__all__ = ["export_cloud_kit"]

_PACKAGE = "points"
_OLDEST = (3, 8)
_GOLDEN = 30_000  # points
_SCATTERS = (10, 0)  # the first TensorRT that adds where it scatters


def export_cloud_kit(
    predictor: Any,
    target: str | Target,
    folder: str | os.PathLike[str],
    *,
    names: Mapping[str, str],
    clouds: Any = None,
    half: bool = False,
    notify: Callable[[str], None] | None = None,
) -> KitReport:
    """Write a kit to `folder`; see `Predictor.export_kit`.

    Args:
        predictor: A predictor of clouds in PyTorch.
        target: A name of `effvision.export.targets.TARGETS`, or one of its values.
        folder: Made; an earlier kit there, or an empty folder, is replaced when everything was checked.
        names: What the runner takes, and from which module of ours: how a cloud is read, prepared and labelled.
        clouds: Source of real clouds; the export is checked with them, and the first becomes `golden.npz`. Default: generated.
        half: Compute in float16.
        notify: Told what is going on.

    Raises:
        InputError: no such target, or one whose Python is too old.
        SourceError: the folder is in the way or cannot be written; nothing is left.
        ExportError: the model cannot be written for that target, or a check failed; nothing is left.
    """
    to = target if isinstance(target, Target) else get_target(target)
    place = checked_place(predictor, folder)
    if to.python < _OLDEST:
        raise InputError(
            f"the programs of a kit for clouds need Python 3.8, and {to.title} has {to.python[0]}.{to.python[1]}\n"
            "hint: `export` without a target writes the ONNX file alone; `--form tables` is for its TensorRT"
        )
    form = "tables" if to.tensorrt is not None and to.tensorrt < _SCATTERS else "scatter"
    real = None if clouds is None else predictor.real_inputs(clouds)
    given = next(predictor.example_updates(1, seed=0)) if real is None else _small(real)
    with appearing_kit(place) as temporary:
        exported = predictor.export(
            temporary / "model.onnx", batch=1, opset=to.opset, frames=real, half=half, form=form, notify=notify
        )
        if exported.ir > to.ir:
            raise ExportError(f"the file has ONNX format {exported.ir}, and {to.title} reads up to {to.ir}")
        report = _fill(temporary, exported, to, _golden(predictor, given), names, predictor.fields)
    return report.at(place)


def _small(clouds: Sequence[Cloud]) -> Cloud:
    """The first cloud, or of a large one the points around its middle: a kit is no place for a survey."""
    if not clouds:
        raise InputError("`frames` holds no cloud\nhint: give a file or a folder of points, or leave it out")
    cloud = clouds[0]
    away = np.abs(cloud.xyz[:, :2] - np.median(cloud.xyz[:, :2], axis=0)).max(axis=1)
    return cloud if len(cloud) <= _GOLDEN else cloud.select(np.sort(np.argpartition(away, _GOLDEN)[:_GOLDEN]))


def _golden(predictor: Any, cloud: Any) -> dict[str, np.ndarray]:
    """A cloud, the first chunk of it, the logits of PyTorch for that, and every label."""
    arrays = predictor.prepare_cloud(cloud)
    chunk = next(iter(predictor.inputs.chunks(arrays["xyz"], seed=0)))
    points = predictor.inputs.cut(arrays, chunk)
    outputs, _ = predictor.runtime.step(predictor.fed(points[None]), predictor.initial_state())
    fields = {f"field_{name}": cloud.fields[name] for name in predictor.fields}
    return {
        "xyz": cloud.xyz, "points": points, "logits": np.asarray(outputs["logits"][0], np.float32),
        "labels": predictor.predict(cloud).labels, "weights": np.array(predictor.metadata.weights_sha256), **fields,
    }  # fmt: skip


def _fill(
    folder: Path, exported: ExportReport, target: Target, golden: dict[str, np.ndarray], names: Mapping[str, str],
    fields: Sequence[str],
) -> KitReport:  # fmt: skip
    """Write everything beside the model; the README last, for it tells what the check of the rest measured."""
    from effvision.runtime.onnx import open_session, read_metadata
    from effvision.viz.palette import class_colors

    metadata: Metadata = read_metadata(open_session(exported), where="the exported model")
    described = {
        "kit": 1,
        "target": target.name,
        "files": {"step": "model.onnx"},
        "sha256": {"model.onnx": exported.sha256},
        "colours": class_colors(metadata.labels).tolist(),
        "effvision": json.loads(metadata.to_json()),
    }
    write(folder / "model.json", json.dumps(described, indent=1, sort_keys=True, ensure_ascii=False).encode())
    write(folder / "labels.txt", "".join(f"{label}\n" for label in metadata.labels).encode())
    packed = io.BytesIO()
    np.savez_compressed(packed, **golden)  # type: ignore[arg-type]
    write(folder / "golden.npz", packed.getvalue())
    for name, text in vendored(names, _PACKAGE).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name, text.encode())
    write(folder / "session.py", template("session.py").encode())
    write(folder / "runner.py", template("cloud_runner.py").encode())
    os.chmod(folder / "runner.py", os.stat(folder / "runner.py").st_mode | 0o111)
    device = check_device(folder / "model.onnx", target)
    if device.verdict == SILENT:
        raise ExportError(f"a kit for {target.title} would give wrong numbers\n{device}")
    verified = verify(folder)
    text = fill_cloud_readme(
        template("cloud_README.md"), metadata, target, fields=fields, tolerances=tolerances("cloud_runner.py"),
        verified=verified, device_check=predicted(device),
    )  # fmt: skip
    write(folder / "README.md", text.encode())
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    return KitReport(folder, target.name, sizes, exported, verified, device)
