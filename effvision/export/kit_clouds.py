"""A kit for clouds: a folder that labels files of points with numpy and ONNX Runtime, checked here before it appears."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from effvision.clouds import Cloud
from effvision.errors import InputError
from effvision.export.kit import appearing_kit, checked_place, template, tolerances
from effvision.export.kit_readme import fill_cloud_readme
from effvision.export.kit_vendored import fill_kit, need_python
from effvision.export.report import KitReport
from effvision.export.targets import Target, get_target
from effvision.metadata import Metadata

__all__ = ["export_cloud_kit"]

_PACKAGE = "points"
_PROGRAMS = {"runner.py": "cloud_runner.py", "session.py": "session.py"}
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
    forms: tuple[str, str] | None = None,
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
        forms: What `export` is asked for: where scatters may add, and where not; default: nothing.

    Raises:
        InputError: no such target, or one whose Python is too old.
        SourceError: the folder is in the way or cannot be written; nothing is left.
        ExportError: the model cannot be written for that target, or a check failed; nothing is left.
    """
    to = target if isinstance(target, Target) else get_target(target)
    place = checked_place(predictor, folder)
    need_python(
        to, "clouds", "`export` without a target writes the ONNX file alone; `--form tables` is for its TensorRT"
    )
    form = {} if forms is None else {"form": forms[int(to.tensorrt is not None and to.tensorrt < _SCATTERS)]}
    real = None if clouds is None else predictor.real_inputs(clouds)
    given = next(predictor.example_updates(1, seed=0)) if real is None else _small(real)

    def readme(metadata: Metadata, verified: str, device: str) -> str:
        text, limits, fields = template("cloud_README.md"), tolerances("cloud_runner.py"), predictor.fields
        return fill_cloud_readme(
            text, metadata, to, fields=fields, tolerances=limits, verified=verified, device_check=device
        )

    with appearing_kit(place) as temporary:
        exported = predictor.export(
            temporary / "model.onnx", batch=1, opset=to.opset, frames=real, half=half, notify=notify, **form
        )
        report = fill_kit(
            temporary,
            exported,
            to,
            golden=_golden(predictor, given, import_module(names["first_call"]).first_call),
            package=_PACKAGE,
            names=names,
            programs=_PROGRAMS,
            check=("runner.py", "--verify", "golden.npz"),
            readme=readme,
            described=_colours,
        )
    return report.at(place)


def _colours(metadata: Metadata) -> dict[str, Any]:
    from effvision.viz.palette import class_colors

    return {"colours": class_colors(metadata.labels).tolist()}


def _small(clouds: Sequence[Cloud]) -> Cloud:
    """The first cloud, or of a large one the points around its middle: a kit is no place for a survey."""
    if not clouds:
        raise InputError("`frames` holds no cloud\nhint: give a file or a folder of points, or leave it out")
    cloud = clouds[0]
    away = np.abs(cloud.xyz[:, :2] - np.median(cloud.xyz[:, :2], axis=0)).max(axis=1)
    return cloud if len(cloud) <= _GOLDEN else cloud.select(np.sort(np.argpartition(away, _GOLDEN)[:_GOLDEN]))


def _golden(predictor: Any, cloud: Any, first_call: Any) -> dict[str, np.ndarray]:
    """A cloud, what the network sees of it first, the logits of PyTorch for that, and every label."""
    arrays = predictor.prepare_cloud(cloud)
    points, feed = first_call(json.loads(predictor.metadata.to_json()), predictor.inputs, arrays)
    outputs, _ = predictor.runtime.step(feed, predictor.initial_state())
    fields = {f"field_{name}": cloud.fields[name] for name in predictor.fields}
    return {
        "xyz": cloud.xyz, "points": points, "logits": np.asarray(outputs["logits"], np.float32),
        "labels": predictor.predict(cloud).labels, "weights": np.array(predictor.metadata.weights_sha256), **fields,
    }  # fmt: skip
