"""LZF, the compression of `binary_compressed` PCD files (Marc Lehmann's LibLZF): decompression only."""

from __future__ import annotations

from effvision.errors import SourceError

__all__ = ["MOST_GROWTH", "lzf_decompress"]

MOST_GROWTH = 88
"""Three bytes become 264 at most."""


def lzf_decompress(data: bytes | memoryview, size: int) -> bytes:
    """Return the `size` bytes that `data` was made of.

    Raises:
        SourceError: `data` is damaged, or makes another number of bytes.
    """
    if size > MOST_GROWTH * max(1, len(data)):
        raise SourceError(f"{len(data)} compressed bytes cannot become the {size} it states")
    source = bytes(data)
    out = bytearray(size)
    place, made, end = 0, 0, len(source)
    while place < end:
        control = source[place]
        place += 1
        if control < 32:  # so many bytes and one more as they are
            length = control + 1
            if place + length > end or made + length > size:
                raise SourceError("its compressed data are damaged: a literal runs over the end")
            out[made : made + length] = source[place : place + length]
            place += length
        else:  # bytes that came before
            length = control >> 5
            if place + (2 if length == 7 else 1) > end:
                raise SourceError("its compressed data are damaged: they end within a reference")
            if length == 7:
                length += source[place]
                place += 1
            length += 2
            begin = made - ((control & 31) << 8) - source[place] - 1
            place += 1
            if begin < 0 or made + length > size:
                raise SourceError("its compressed data are damaged: a reference points outside")
            gap = made - begin
            if gap >= length:
                out[made : made + length] = out[begin : begin + length]
            else:  # it repeats what it writes
                out[made : made + length] = (out[begin:made] * (length // gap + 1))[:length]
        made += length
    if made != size:
        raise SourceError(f"its compressed data make {made} bytes, not the {size} it states")
    return bytes(out)
