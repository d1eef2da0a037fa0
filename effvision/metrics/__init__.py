"""How good answers are: segmentations, one tracked object, many, detections, and how late they come. NumPy only."""

from __future__ import annotations

from effvision.metrics.boxes import FrameBoxes, box_iou, paired_iou
from effvision.metrics.delay import DelayScores, delay_scores
from effvision.metrics.detection import DetectionScores, detection_scores, mean_iou_by_offset
from effvision.metrics.mot import MotScores, mot_scores
from effvision.metrics.segmentation import SegmentationScores, confusion_matrix
from effvision.metrics.tracking import (
    TrackingScores,
    precision,
    precision_curve,
    success_auc,
    success_curve,
    tracking_scores,
)

__all__ = [
    "DelayScores",
    "DetectionScores",
    "FrameBoxes",
    "MotScores",
    "SegmentationScores",
    "TrackingScores",
    "box_iou",
    "confusion_matrix",
    "delay_scores",
    "detection_scores",
    "mean_iou_by_offset",
    "mot_scores",
    "paired_iou",
    "precision",
    "precision_curve",
    "success_auc",
    "success_curve",
    "tracking_scores",
]
