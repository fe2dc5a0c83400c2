"""Label files as they are stored: a PNG of category ids, or of segment ids as colours."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from unified.arrays import Array
from unified.errors import DataError

PALETTE = b"\x03"
"""The colour type in a PNG's header that says that its pixels are indices."""


def read_grey(file: Path, size: tuple[int, int]) -> Array:
    """(H, W) uint8 of a grey or indexed image.

    Raises:
        DataError: the file is missing, broken, a colour image, or not of the image's size.
    """
    pixels = _read(file, size)
    if pixels.ndim != 2:
        raise DataError(
            f"label file {file} is a colour image",
            "stuff maps are grey or indexed images whose values are category ids",
        )
    return pixels


@lru_cache(maxsize=4)
def read_colours(file: Path, size: tuple[int, int]) -> Array:
    """(H, W, 4) uint8: R, G, B and 0, which is the segment's id as a little-endian number.

    The last files, as many as a mosaic has, are remembered: several kinds may come from one.

    Raises:
        DataError: the file is missing, broken, no colour image, or not of the image's size.
    """
    pixels = _read(file, size)
    if pixels.ndim != 3:
        raise DataError(
            f"label file {file} is a grey or indexed image",
            "panoptic labels are colour images: R + 256 G + 65536 B is the id of a segment",
        )
    ids = cv2.cvtColor(pixels[..., :3], cv2.COLOR_BGR2RGBA)
    ids[..., 3] = 0
    return ids


def _read(file: Path, size: tuple[int, int]) -> Array:
    """(H, W) or (H, W, 3 or 4) uint8, colours as B, G, R; an index image gives its indices."""
    try:
        data = file.read_bytes()
        # OpenCV is faster, but turns indices into the colours of the palette.
        pixels = _by_pillow(data) if data[25:26] == PALETTE else _by_opencv(data)
    except (OSError, SyntaxError) as error:
        raise DataError(
            f"label file {file} cannot be read: {error}",
            "restore it, or take its image out of the json",
        ) from error
    if pixels.shape[:2] != size:
        raise DataError(
            f"label file {file} is {pixels.shape[1]}×{pixels.shape[0]} pixels, its image "
            f"{size[1]}×{size[0]}",
            "write label files at the size of their images",
        )
    return pixels


def _by_opencv(data: bytes) -> Array:
    whole = b"IEND" in data[-12:]  # OpenCV would fill up what is missing
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if whole else None
    if pixels is None:
        raise OSError("it is no PNG, or cut short")
    return pixels


def _by_pillow(data: bytes) -> Array:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)
