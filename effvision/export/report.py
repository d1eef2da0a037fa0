"""What an export wrote and measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

from effvision.export.device_report import DeviceReport

__all__ = ["ExportReport", "KitReport", "PrecisionReport"]

_MOST_NAMED = 40  # inputs; of more than these only
_FEW_NAMED = 4


class PrecisionReport(Protocol):
    """What making another precision of a float graph measured; its text is for people."""

    def summary(self) -> dict[str, Any]:
        """Return what the file itself carries."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""


@dataclass(frozen=True)
class ExportReport:
    """An exported file and its check; usable wherever a path is (`os.fspath`).

    Attributes:
        path: The file.
        opset: Of ONNX's own domain, read back from the file.
        ir: Version of the ONNX format.
        nodes: Nodes of the graph.
        size: Bytes of the file.
        sha256: Of the file; the same model exported again gives the same.
        inputs: Graph inputs by name, state included, to their shapes.
        outputs: Graph outputs by name, state included, to their shapes.
        check: Streams, steps and differences of the float32 graph measured against PyTorch; stored in the file too.
        warnings: What some targets do wrong with this graph.
        precision: How the file differs from the float graph that was checked; None for float32.
        seconds: Time the whole export took, check included.
        parts: Files of the model's other graphs.
    """

    path: Path
    opset: int
    ir: int
    nodes: int
    size: int
    sha256: str
    inputs: Mapping[str, tuple[int | str, ...]]
    outputs: Mapping[str, tuple[int | str, ...]]
    check: Mapping[str, Any]
    warnings: tuple[str, ...]
    seconds: float
    precision: PrecisionReport | None = None
    parts: tuple[ExportReport, ...] = ()

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        check, what = self.check, "the float graph " if self.precision else ""
        lines = [
            f"{self.path}  {self.size / 1e6:.2f} MB, {self.nodes} nodes, opset {self.opset}, IR {self.ir}, "
            f"{self.seconds:.1f} s",
            f"  inputs  {self._named(self.inputs)}",
            f"  outputs {self._named(self.outputs)}",
            f"  check   {what}equals PyTorch over {check.get('over') or self._steps()} "
            f"(batches {check['batches']}): largest difference {check['max_abs']:.1e}, "
            f"relative rms {check['relative_rms']:.1e}",
            *(f"  {line}" for line in (str(self.precision).splitlines() if self.precision else ())),
            *(f"  warning {warning}" for warning in self.warnings),
            f"  sha256  {self.sha256}",
            *(str(part) for part in self.parts),
        ]
        return "\n".join(lines)

    def _steps(self) -> str:
        steps = self.check["steps"]
        return f"{steps} steps{', a reset' if steps >= 16 else ''}"

    def _named(self, tensors: Mapping[str, tuple[int | str, ...]]) -> str:
        """Names and shapes; of a hundred tables a few."""
        told = [f"{name} {list(shape)}" for name, shape in tensors.items()]
        if len(told) > _MOST_NAMED:
            told[_FEW_NAMED:] = [f"and {len(told) - _FEW_NAMED} more: effvision info {self.path.name}"]
        return ", ".join(told)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        data = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        precision = self.precision.to_dict() if self.precision else None
        changed = {"path": str(self.path), "warnings": list(self.warnings), "precision": precision}
        return {**data, **changed, "parts": [part.to_dict() for part in self.parts]}


@dataclass(frozen=True)
class KitReport:
    """A kit and its checks; usable wherever a path is (`os.fspath`).

    Attributes:
        folder: Where it lies.
        target: Name of the target.
        files: Bytes of each file by name.
        export: Of `model.onnx`, with the check against PyTorch.
        verified: What the kit's own check measured here, in ONNX Runtime on a CPU.
        device: What the device is predicted to make of `model.onnx`; nothing ran there.
        check: The kit's program and the arguments with which it checks itself.
    """

    folder: Path
    target: str
    files: Mapping[str, int]
    export: ExportReport
    verified: str
    device: DeviceReport
    check: str = "runner.py --verify golden.npz"

    def at(self, place: Path) -> KitReport:
        """Return the same kit after it was moved to `place`."""
        model = place / "model.onnx"
        return replace(
            self, folder=place, export=replace(self.export, path=model), device=replace(self.device, model=str(model))
        )

    def __fspath__(self) -> str:
        return str(self.folder)

    def __str__(self) -> str:
        width = max(map(len, self.files))
        lines = [
            f"{self.folder}  kit for {self.device.title}: {len(self.files)} files, {sum(self.files.values()) / 1e6:.2f} MB",
            *(f"  {name:<{width}}  {size:>10,} bytes" for name, size in self.files.items()),
            *(f"  {line}" for line in str(self.export).splitlines()[1:]),
            f"  verified here with the kit's runner: {self.verified}",
            *(f"  {line}" for line in str(self.device).splitlines()),
            f"  not run on a board; there: python3 {self.check}",
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "folder": str(self.folder),
            "target": self.target,
            "files": dict(self.files),
            "export": self.export.to_dict(),
            "verified": self.verified,
            "device": self.device.to_dict(),
        }
