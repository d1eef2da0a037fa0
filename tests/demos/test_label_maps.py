"""Label maps that are opened on the page: numbers, palettes, colours, and what is refused."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from effvision.cards import get_card
from effvision.demos.label_maps import read_png
from effvision.errors import InputError
from effvision.models.sige.encoding import parse_encoding
from effvision.models.sige.scenes import NAMES, PALETTE, SIZE, coloured, layout
from label_map_files import png

CARD = get_card("sige-scenes")
LABELS = layout(3)
COLOURS = [paint.colour for paint in PALETTE]
FLAT = [value for colour in COLOURS for value in colour]


def read(data: bytes) -> np.ndarray:
    return read_png(data, parse_encoding(CARD.preprocess, CARD.labels))


def shuffled() -> tuple[np.ndarray, list[int]]:
    """The map with a palette in another order, as a painting program writes it."""
    order = np.random.default_rng(0).permutation(len(COLOURS))
    places = np.argsort(order).astype(np.uint8)[LABELS]
    return places, [value for label in order for value in COLOURS[label]]


@pytest.mark.parametrize(
    "data",
    [
        png(LABELS),  # grey: numbers
        png(LABELS, palette=FLAT),  # both at once
        png(LABELS, palette=[value for grey in range(15) for value in (grey, grey, grey)]),  # numbers, in a grey palette
        png(*shuffled()[:1], palette=shuffled()[1]),  # colours
        png(coloured(LABELS)),
        png(coloured(LABELS), "RGBA"),  # nowhere transparent
        png(LABELS.astype(np.int32) .astype(np.uint16)),  # 16 bits
    ],
    ids=["grey", "palette", "grey palette", "shuffled palette", "colours", "opaque", "16 bits"],
)  # fmt: skip
def test_numbers_and_colours_are_read(data: bytes) -> None:
    found = read(data)
    assert found.dtype == np.uint8 and np.array_equal(found, LABELS)


def spoiled(row: int, column: int, value: object) -> np.ndarray:
    picture = coloured(LABELS).copy()
    picture[row, column] = value
    return picture


def transparent() -> np.ndarray:
    return np.dstack([coloured(LABELS), np.where(np.arange(SIZE) == 9, 0, 255).astype(np.uint8)[None].repeat(SIZE, 0)])


def huge() -> bytes:
    """A PNG of a few bytes that says it has four thousand million pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 65535, 65535, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def twice() -> bytes:
    """A small map by its first header; a decoder goes by the second, and takes gigabytes for a file of some kilobytes."""
    data, header = png(LABELS), b"IHDR" + struct.pack(">IIBBBBB", 9000, 9000, 8, 0, 0, 0, 0)
    return data[:33] + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no PNG"),  # what was given, and what is said of it
        (b"\xff\xd8\xff\xe0 and so on", "JPEG"),
        (png(LABELS)[:200], "damaged"),
        (png(LABELS)[:20], "damaged"),
        (png(LABELS[:200]), "256 x 200"),
        (huge(), "65535 x 65535"),
        (twice(), "damaged.*size twice"),
        (png(np.where(np.arange(SIZE) == 7, 15, LABELS).astype(np.uint8)), "15 at row 0, column 7"),
        (png(spoiled(3, 5, (1, 2, 3))), r"\(1, 2, 3\).*row 3, column 5"),
        (png(transparent()), "transparent.*column 9"),
        (png((LABELS + 200).astype(np.uint8), palette=[7] * 768), "no class"),
    ],
    ids=["empty", "jpeg", "cut", "cut header", "size", "huge", "twice", "number", "colour", "transparent", "palette"],
)
def test_anything_else_is_refused_with_what_is_wrong(data: bytes, said: str) -> None:
    with pytest.raises(InputError, match=f"(?s){said}") as refused:
        read(data)
    assert "\nhint: " in str(refused.value)


def test_the_hint_names_the_nearest_class() -> None:
    colour = np.array(COLOURS[NAMES.index("water")]) + 1
    with pytest.raises(InputError, match=r"nearest.*water"):
        read(png(spoiled(0, 0, colour)))
