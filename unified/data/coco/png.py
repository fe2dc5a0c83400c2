"""Label files as they are stored: a PNG of category ids, or of segment ids as colours."""

from __future__ import annotations

import io
import struct
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyspng
from PIL.PngImagePlugin import PngImageFile

from unified.arrays import Array
from unified.errors import DataError
from unified.files import read_file

SIZE, BITS, COLOUR = slice(16, 24), slice(24, 25), slice(25, 26)
"""Where a PNG's header says how large it is, how many bits a channel has, and of what sort."""
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = b"\x00", b"\x02", b"\x03", b"\x04", b"\x06"


def read_grey(file: Path, size: tuple[int, int]) -> Array:
    """(H, W) uint8 of a grey or indexed image.

    Raises:
        DataError: the file is missing, broken, a colour image, or not of the image's size.
    """
    data = _read(file, size)
    if data[COLOUR] not in (GREY, PALETTE):
        raise DataError(
            f"label file {file} is a colour image",
            "stuff maps are grey or indexed images whose values are category ids",
        )
    return _decode(file, data)


@lru_cache(maxsize=4)
def read_colours(file: Path, size: tuple[int, int]) -> Array:
    """(H, W, 3) uint8 RGB: the bytes of a segment's id, its lowest first.

    The last files, as many as a mosaic has, are remembered: several kinds may come from one.

    Raises:
        DataError: the file is missing, broken, no colour image, or not of the image's size.
    """
    data = _read(file, size)
    if data[COLOUR] not in (RGB, RGBA):
        raise DataError(
            f"label file {file} is a grey or indexed image",
            "panoptic labels are colour images: R + 256 G + 65536 B is the id of a segment",
        )
    return _decode(file, data)


def _read(file: Path, size: tuple[int, int]) -> bytes:
    """The bytes of a PNG that says it has the size, before anything of that size is made."""
    try:
        data = read_file(file)
    except OSError as error:
        raise _unreadable(file, error.strerror) from error
    if data[:4] != b"\x89PNG" or b"IEND" not in data[-12:]:
        raise _unreadable(file, "it is no PNG, or cut short")
    fewer = (b"\x01", b"\x02", b"\x04") if data[COLOUR] == PALETTE else ()
    if data[BITS] not in (b"\x08", *fewer):
        raise DataError(
            f"label file {file} has {data[24]} bits per channel", "write label files with 8 bits"
        )
    width, height = struct.unpack(">II", data[SIZE])
    if (height, width) != size:
        raise DataError(
            f"label file {file} is {width}×{height} pixels, its image {size[1]}×{size[0]}",
            "write label files at the size of their images",
        )
    return data


def _decode(file: Path, data: bytes) -> Array:
    """(H, W) or (H, W, 3) uint8; an index image gives its indices."""
    try:
        if data[COLOUR] == PALETTE:  # pyspng is faster, but turns indices into colours
            pixels = np.asarray(PngImageFile(io.BytesIO(data)))
        else:
            pixels = pyspng.load(data, "L" if data[COLOUR] == GREY else "RGB")
    except (OSError, SyntaxError, ValueError, RuntimeError) as error:
        raise _unreadable(file, str(error)) from error
    return np.asarray(pixels)


def _unreadable(file: Path, reason: str | None) -> DataError:
    return DataError(
        f"label file {file} cannot be read: {reason}",
        "restore it, or take its image out of the json",
    )
