"""Draw results onto pictures, clouds as pictures, and save them. OpenCV is imported at first use."""

from effvision.viz.boxes import draw_boxes
from effvision.viz.classification import draw_classification
from effvision.viz.outline import draw_outline
from effvision.viz.palette import class_colors, id_color
from effvision.viz.points import View, automatic_view, render_points
from effvision.viz.saving import save_image
from effvision.viz.segmentation import draw_segmentation

__all__ = [
    "View",
    "automatic_view",
    "class_colors",
    "draw_boxes",
    "draw_classification",
    "draw_outline",
    "draw_segmentation",
    "id_color",
    "render_points",
    "save_image",
]
