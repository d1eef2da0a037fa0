"""TSM, the temporal shift module: video recognition at the cost of a 2D network.

Lin, Gan and Han, "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019.
"""

from __future__ import annotations

from effvision.models.tsm.predictor import TSM

__all__ = ["TSM"]
