"""Label files as they are stored: a PNG of category ids, or of segment ids as colours."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyspng
from PIL.PngImagePlugin import PngImageFile

from unified.arrays import Array
from unified.errors import DataError

BITS, COLOUR = slice(24, 25), slice(25, 26)
"""Where a PNG's header says how many bits a channel has, and what its pixels are."""
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = b"\x00", b"\x02", b"\x03", b"\x04", b"\x06"


def read_grey(file: Path, size: tuple[int, int]) -> Array:
    """(H, W) uint8 of a grey or indexed image.

    Raises:
        DataError: the file is missing, broken, a colour image, or not of the image's size.
    """
    data = _read(file)
    if data[COLOUR] not in (GREY, PALETTE):
        raise DataError(
            f"label file {file} is a colour image",
            "stuff maps are grey or indexed images whose values are category ids",
        )
    return _decode(file, data, size)


@lru_cache(maxsize=4)
def read_colours(file: Path, size: tuple[int, int]) -> Array:
    """(H, W, 3) uint8 RGB: the bytes of a segment's id, its lowest first.

    The last files, as many as a mosaic has, are remembered: several kinds may come from one.

    Raises:
        DataError: the file is missing, broken, no colour image, or not of the image's size.
    """
    data = _read(file)
    if data[COLOUR] not in (RGB, RGBA):
        raise DataError(
            f"label file {file} is a grey or indexed image",
            "panoptic labels are colour images: R + 256 G + 65536 B is the id of a segment",
        )
    return _decode(file, data, size)


def _read(file: Path) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error.strerror) from error
    if data[:4] != b"\x89PNG" or b"IEND" not in data[-12:]:
        raise _unreadable(file, "it is no PNG, or cut short")
    if data[BITS] not in (b"\x01", b"\x02", b"\x04", b"\x08"):
        raise DataError(
            f"label file {file} has {data[24]} bits per channel", "write label files with 8 bits"
        )
    return data


def _decode(file: Path, data: bytes, size: tuple[int, int]) -> Array:
    """(H, W) or (H, W, 3) uint8; an index image gives its indices."""
    try:
        if data[COLOUR] == PALETTE:  # pyspng is faster, but turns indices into colours
            pixels = np.asarray(PngImageFile(io.BytesIO(data)))
        else:
            pixels = pyspng.load(data, "L" if data[COLOUR] == GREY else "RGB")
    except (OSError, SyntaxError, ValueError, RuntimeError) as error:
        raise _unreadable(file, str(error)) from error
    if pixels.shape[:2] != size:
        raise DataError(
            f"label file {file} is {pixels.shape[1]}×{pixels.shape[0]} pixels, its image "
            f"{size[1]}×{size[0]}",
            "write label files at the size of their images",
        )
    return np.asarray(pixels)


def _unreadable(file: Path, reason: str | None) -> DataError:
    return DataError(
        f"label file {file} cannot be read: {reason}",
        "restore it, or take its image out of the json",
    )
