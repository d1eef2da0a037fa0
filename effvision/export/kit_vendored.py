"""What kits that bring modules of ours along have in common: their Python, and everything beside the exported file."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from effvision.errors import ExportError, InputError
from effvision.export.device_check import check_device
from effvision.export.device_report import SILENT
from effvision.export.kit import predicted, template, verify, write
from effvision.export.report import ExportReport, KitReport
from effvision.export.targets import Target
from effvision.export.vendored import vendored
from effvision.metadata import Metadata

__all__ = ["fill_kit", "need_python"]

_OLDEST = (3, 8)  # what `vendored` writes for


def need_python(target: Target, what: str, hint: str) -> None:
    """Refuse a target whose Python is older than our modules can be written for.

    Raises:
        InputError: with `what` kind of kit and what to do instead.
    """
    if target.python < _OLDEST:
        raise InputError(
            f"the programs of a kit for {what} need Python 3.8, and {target.title} has {target.python[0]}."
            f"{target.python[1]}\nhint: {hint}"
        )


def fill_kit(
    folder: Path,
    exported: ExportReport,
    target: Target,
    *,
    golden: Mapping[str, np.ndarray],
    package: str,
    names: Mapping[str, str],
    programs: Mapping[str, str],
    check: tuple[str, ...],
    readme: Callable[[Metadata, str, str], str],
    described: Callable[[Metadata], Mapping[str, Any]] = lambda metadata: {},
) -> KitReport:
    """Write everything beside the model; the README last, for it tells what the check of the rest measured.

    Args:
        folder: Of the kit; the model is there.
        exported: The model.
        target: Of the kit.
        golden: What `golden.npz` holds.
        package: Folder of the modules of ours.
        names: What it offers, and from which module; see `vendored`.
        programs: File -> its template in `kit_files`; the first is the one that people start.
        check: That one and its arguments, with which it checks itself.
        readme: Called with the file's description, what that check measured, and what the device is predicted to do.
        described: What `model.json` says besides.

    Raises:
        ExportError: the device cannot read the file or would compute wrongly, or the kit's own check failed.
    """
    from effvision.runtime.onnx import open_session, read_metadata

    if exported.ir > target.ir:
        raise ExportError(f"the file has ONNX format {exported.ir}, and {target.title} reads up to {target.ir}")
    metadata = read_metadata(open_session(exported), where="the exported model")
    _describe(folder, exported, target, metadata, described(metadata))
    packed = io.BytesIO()
    np.savez_compressed(packed, **golden)  # type: ignore[arg-type]
    write(folder / "golden.npz", packed.getvalue())
    for name, text in vendored(names, package).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name, text.encode())
    for name, source in programs.items():
        write(folder / name, template(source).encode())
    main = folder / next(iter(programs))
    os.chmod(main, os.stat(main).st_mode | 0o111)
    device = check_device(folder / "model.onnx", target)
    if device.verdict == SILENT:
        raise ExportError(f"a kit for {target.title} would give wrong numbers\n{device}")
    verified = verify(folder, *check)
    write(folder / "README.md", readme(metadata, verified, predicted(device)).encode())
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    return KitReport(folder, target.name, sizes, exported, verified, device, check=" ".join(check))


def _describe(
    folder: Path, exported: ExportReport, target: Target, metadata: Metadata, more: Mapping[str, Any]
) -> None:
    """Write what the file says of itself, for what does not read ONNX."""
    said = {
        "kit": 1,
        "target": target.name,
        "files": {"step": "model.onnx"},
        "sha256": {"model.onnx": exported.sha256},
        **more,
        "effvision": json.loads(metadata.to_json()),
    }
    write(folder / "model.json", json.dumps(said, indent=1, sort_keys=True, ensure_ascii=False).encode())
    if metadata.labels:
        write(folder / "labels.txt", "".join(f"{label}\n" for label in metadata.labels).encode())
