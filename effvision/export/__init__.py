"""Writing exported files: trace, fit to the opset, look for known traps, compare with PyTorch, then let the file appear."""

from __future__ import annotations

from effvision.export.report import ExportReport
from effvision.export.writer import export_onnx

__all__ = ["ExportReport", "export_onnx"]
