"""What a file is, told from its name and first bytes, so that decoders are not asked about what is plainly no video.

FFmpeg writes its complaints straight to the terminal, and they say little; here the usual cases get a reason in words.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

__all__ = ["IMAGE_SUFFIXES", "VIDEO_SUFFIXES", "looks_like_image", "why_no_video"]

# fmt: off
IMAGE_SUFFIXES = frozenset(
    {
        ".bmp", ".dib", ".jpeg", ".jpg", ".jpe", ".jp2", ".png", ".webp", ".avif", ".pbm",
        ".pgm", ".ppm", ".pxm", ".pnm", ".sr", ".ras", ".tiff", ".tif", ".exr", ".hdr",
    }
)
VIDEO_SUFFIXES = frozenset(
    {
        ".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4",
        ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv",
    }
)
# fmt: on

_IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"BM", b"II*\x00", b"MM\x00*")
_ISO_SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".3gp"})
_ISO_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"uuid"})
_VIDEO_MAGIC = (
    b"RIFF",
    b"\x1aE\xdf\xa3",  # Matroska, WebM
    b"FLV",
    b"\x00\x00\x01",  # MPEG program and elementary streams, raw H.264
    b"\x00\x00\x00\x01",
    b"0&\xb2u",  # ASF, WMV
    b"OggS",
    b"GIF8",
)
_TRANSPORT_PACKET = 188  # bytes; each begins with "G"


def looks_like_image(path: Path) -> bool:
    """Whether the file `path` is an image: by its suffix, or by its first bytes when the suffix says nothing."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES or suffix in VIDEO_SUFFIXES:
        return suffix in IMAGE_SUFFIXES
    head = _head(path, 12)
    return head.startswith(_IMAGE_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def why_no_video(path: Path) -> str | None:
    """Say why `path` cannot be a video, as the end of a sentence; None when a decoder should try."""
    try:
        with path.open("rb") as file:
            head = file.read(_TRANSPORT_PACKET + 1)
            if not head:
                return "is empty (0 bytes)"
            if head[4:8] in _ISO_BOXES:
                return _why_no_iso_video(file)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    transport = head[:1] == b"G" and head[_TRANSPORT_PACKET:] == b"G"
    known = head.startswith(_VIDEO_MAGIC) or transport
    suffix = path.suffix.lower()
    if not known and (suffix in _ISO_SUFFIXES or suffix not in VIDEO_SUFFIXES):
        # FFmpeg would take text for a film: it plays .txt, .nfo and .bin as terminal art.
        return "is neither an image nor a video: it does not begin as any of them does"
    return None


def _why_no_iso_video(file: BinaryIO) -> str | None:
    """Walk the top boxes of an MP4 or MOV file; without `moov` (the index) nothing can be decoded."""
    size = file.seek(0, 2)
    place = 0
    while place + 8 <= size:
        file.seek(place)
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"moov":
            return None
        if length == 1:
            large = file.read(8)
            length = struct.unpack(">Q", large)[0] if len(large) == 8 else 0
        if length < 8:  # 0 means: to the end of the file
            break
        place += length
    return (
        "has no index (`moov`): the recording or the copy was cut off before it was finished\n"
        "hint: record or copy it again; a tool such as untrunc can sometimes rebuild it"
    )


def _head(path: Path, length: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(length)
    except OSError:
        return b""
