"""Back ends, one per file: named arrays in, named arrays out. A predictor never asks which one it has."""

from __future__ import annotations

from effvision.runtime.base import Runtime

__all__ = ["Runtime"]
