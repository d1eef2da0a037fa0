"""A picture of a label map, any label map: each class painted, then shadows, haze, and what the water mirrors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from effvision._optional import import_cv2
from effvision.models.sige.scenes_paint import HAZE, PAINTERS, blend
from effvision.models.sige.scenes_palette import PALETTE, check_labels, check_seed
from effvision.models.sige.scenes_view import Pixels, View

__all__ = ["REACH", "render"]

REACH = 80
"""A pixel depends on no label further away than this many rows or columns."""

_MIRRORED = 24  # rows above the shore that water shows
_GROUND = ("grass", "field", "sand", "snow", "road", "water", "hill")
_HAZY = ("grass", "field", "sand", "water", "road", "tree", "bush", "rock", "wall", "roof")

Array = NDArray[np.float32]

_DARK: Array = np.array([[0.44], [0.40], [0.30]], dtype=np.float32)  # what a shadow takes of red, green and blue


def render(labels: NDArray[np.uint8], seed: int = 0) -> NDArray[np.uint8]:
    """Draw a label map.

    Args:
        labels: (H, W) uint8, any labels anywhere; sides 32 to 1024, 256 being what sizes in pixels are made for.
        seed: Of the grain of materials, see `scenes_guide.guide`; nothing else is random.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DTypeError, ShapeError, RangeError: no label map, or no seed.
        MissingDependencyError: OpenCV is absent.
    """
    view = View(check_labels(labels), check_seed(seed))
    height, width = labels.shape
    picture = np.empty((3, height * width), dtype=np.float32)
    for label, paint in enumerate(PALETTE):
        pixels = Pixels(view, label)
        if pixels.places.size:
            picture[:, pixels.places] = PAINTERS[paint.name](pixels)
    _shade(picture, view)
    _haze(picture, view)
    _mirror(picture, view)
    return _finished(picture, view)


def _shade(picture: Array, view: View) -> None:
    """Take the light away in shadows, bluish, in place."""
    places = np.flatnonzero((view.shadow() > 0.01) & (view.mask(*_GROUND) == 1))
    share = view.shadow().ravel()[places]
    picture[:, places] *= 1 - share * _DARK


def _haze(picture: Array, view: View) -> None:
    """Aerial perspective: what stands higher in the picture is further away, and paler."""
    share = (0.26 * (1 - view.near) ** 2 * view.mask(*_HAZY)).ravel()
    picture += share * (np.array(HAZE, np.float32)[:, None] - picture)


def _mirror(picture: Array, view: View) -> None:
    """Let water show what stands above its upper shore, upside down, broken by waves; in place."""
    depth = view.above(_MIRRORED, "water")
    rows, columns = np.nonzero(depth <= _MIRRORED)
    if not rows.size:
        return
    below = depth[rows, columns]
    waves = view.planes["waves"][rows, columns]
    jitter = np.rint(2.4 * waves * np.minimum(1, below / 6)).astype(np.int32)
    height, width = view.labels.shape
    source = np.clip(rows - 2 * below + 1 + jitter // 2, 0, height - 1) * width + np.clip(
        columns + jitter, 0, width - 1
    )
    shown = picture[:, source] * np.float32(0.86)
    share = 0.62 * (1 - (below - 1) / _MIRRORED) ** 1.3 * (view.mask("water").ravel()[source] == 0)
    here = rows * width + columns
    foam = np.clip((picture[:, here].min(0) - 0.7) * 4, 0, 1)
    picture[:, here] = blend(picture[:, here], shown, (share * (1 - foam)).astype(np.float32))


def _finished(picture: Array, view: View) -> NDArray[np.uint8]:
    """Soften the borders between classes, and round."""
    cv2: Any = import_cv2()
    labels = view.labels
    edge = cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    whole = cv2.merge([np.rint(np.clip(plane, 0, 1) * 255).astype(np.uint8).reshape(labels.shape) for plane in picture])
    softened = cv2.GaussianBlur(whole, (3, 3), 0.7, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(np.where(edge[:, :, None], softened, whole))
