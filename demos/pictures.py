"""Pictures as they travel between the page and the server: JPEG, looked at before memory is taken for it."""

from __future__ import annotations

import struct

import numpy as np

from effvision._optional import import_cv2
from effvision.errors import InputError

__all__ = ["decode_frame", "encode_frame", "jpeg_size"]


def decode_frame(jpeg: bytes, *, max_pixels: int) -> np.ndarray:
    """Decode a JPEG picture to (H, W, 3) uint8 RGB.

    Raises:
        InputError: it is no JPEG, has more pixels than that (refused before memory is taken), or is damaged.
    """
    width, height = jpeg_size(jpeg)
    if width * height > max_pixels:
        raise InputError(f"a frame of {width}x{height} is too large here; the limit is {max_pixels:,} pixels")
    cv2 = import_cv2()
    bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise InputError(f"the frame is a damaged JPEG picture ({len(jpeg)} bytes)")
    rgb: np.ndarray = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return rgb


def encode_frame(image: np.ndarray, *, width: int) -> bytes:
    """Encode (H, W, 3) uint8 RGB as JPEG, made smaller so that it is no wider than `width` pixels."""
    cv2 = import_cv2()
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if bgr.shape[1] > width:
        height = max(1, round(bgr.shape[0] * width / bgr.shape[1]))
        bgr = cv2.resize(bgr, (width, height), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return bytes(data)


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) in pixels from a JPEG's own header, without decoding it.

    Raises:
        InputError: it is no JPEG, or its header is damaged.
    """
    if data[:2] != b"\xff\xd8":
        raise InputError(f"a frame must be a JPEG picture; got {data[:8]!r}")
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big") if marker != 0xFF else 1
    raise InputError(f"the frame is a damaged JPEG picture ({len(data)} bytes): its size is missing")
