"""Draw results onto pictures and save them. OpenCV is imported at first use."""

from effvision.viz.classification import draw_classification
from effvision.viz.saving import save_image

__all__ = ["draw_classification", "save_image"]
