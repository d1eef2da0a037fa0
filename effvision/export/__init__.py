"""Writing exported files: trace, fit to the opset, look for known traps, compare with PyTorch, then let the file appear."""

from __future__ import annotations

from effvision.export.kit import export_kit
from effvision.export.precision import Int8
from effvision.export.report import ExportReport, KitReport
from effvision.export.triton import TritonReport, export_triton
from effvision.export.writer import export_onnx

__all__ = ["ExportReport", "Int8", "KitReport", "TritonReport", "export_kit", "export_onnx", "export_triton"]
