"""Label maps that are opened on the page: PNG files, looked at before memory is taken for them."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from effvision._optional import require
from effvision.errors import InputError, RangeError

if TYPE_CHECKING:
    from effvision.models.sige.encoding import Encoding

__all__ = ["png_size", "read_png"]


def png_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) in pixels from a PNG's own header, without decoding it.

    Raises:
        InputError: it is no PNG, or its header is damaged.
    """
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        kind = "a JPEG picture, which mixes colours where classes meet" if data[:2] == b"\xff\xd8" else "no PNG picture"
        raise InputError(f"the file is {kind}\nhint: save the label map as PNG")
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise InputError(f"the file is a damaged PNG picture ({len(data)} bytes)\nhint: save it again")
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def read_png(data: bytes, encoding: Encoding) -> np.ndarray:
    """Read a label map from the bytes of a PNG: grey or palette pixels that are numbers of classes, or pixels in their colours.

    Of a palette the colours count if they are those of the classes, since painting programs sort palettes as they like.

    Args:
        data: The file.
        encoding: Its classes, colours and size.

    Returns:
        (H, W) uint8.

    Raises:
        InputError: no PNG, another size, transparent pixels, numbers or colours of no class.
        MissingDependencyError: Pillow is not installed.
    """
    from effvision.models.sige.label_maps import read_label_map

    width, height = png_size(data)
    if (height, width) != encoding.size:
        rows, columns = encoding.size
        raise InputError(
            f"the picture has {width} x {height} pixels; a label map here has {columns} x {rows}\n"
            "hint: resize it with nearest neighbours, so that no colours mix"
        )
    image = require("PIL.Image", extra="demo")
    try:
        picture: Any = image.open(io.BytesIO(data), formats=("PNG",))
        if picture.size != (width, height):  # a second header, which counts for the decoder
            raise ValueError("it states its size twice")
        picture.load()
    except Exception as error:  # Pillow raises a dozen kinds for damaged files
        raise InputError(f"the file is a damaged PNG picture: {error}\nhint: save it again") from error

    def read(labels: Any) -> np.ndarray:
        return read_label_map(labels, encoding.names, encoding.colours, encoding.size)

    if picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
        return read(picture.convert("RGBA"))
    if picture.mode != "P":
        return read(picture)
    try:
        return read(picture.convert("RGB"))
    except RangeError:  # its palette is another one
        return read(picture)
