"""Label files of panoptic and stuff segmentation as maps of class indices.

Pixels are warped as they are stored, and only the pixels that are left get a class: converting
a whole panoptic PNG costs more than all else that a sample needs.
"""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from unified.errors import DataError
from unified.specs import IGNORE, Array, LabelSpace, Segments


@lru_cache(maxsize=4)
def read_labels(file: str, shape: tuple[int, int], colour: bool) -> Array:
    """A label file as stored, (H, W) or (H, W, 3) uint8; an index image gives its indices.

    The last files, as many as a mosaic has, are remembered: masks, stuff and panoptic maps may
    come from the same ones.

    Args:
        file: a PNG.
        shape: (H, W) of its image.
        colour: three channels are expected, as in panoptic labels, or one.

    Raises:
        DataError: the file is missing, broken, or not of the image's size or kind.
    """
    try:
        data = Path(file).read_bytes()
        # OpenCV is faster, but turns indices into the colours of the palette.
        pixels = _by_pillow(data) if data[25:26] == PALETTE else _by_opencv(data)
    except (OSError, SyntaxError) as error:
        raise DataError(
            f"label file {file} cannot be read: {error}",
            "restore it, or take its image out of the json",
        ) from error
    if pixels.shape[:2] != shape:
        raise DataError(
            f"label file {file} is {pixels.shape[1]}×{pixels.shape[0]} pixels, its image "
            f"{shape[1]}×{shape[0]}",
            "write label files at the size of their images",
        )
    if (pixels.ndim == 3) != colour:
        raise DataError(
            f"label file {file} is a {'grey or indexed' if colour else 'colour'} image",
            "panoptic labels are colour images, stuff maps grey or indexed ones whose values are "
            "category ids",
        )
    return pixels


PALETTE = b"\x03"
"""The colour type in a PNG's header that says that its pixels are indices."""


def _by_opencv(data: bytes) -> Array:
    whole = b"IEND" in data[-12:]  # OpenCV would fill up what is missing
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if whole else None
    if pixels is None:
        raise OSError("it is no PNG, or cut short")
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels[..., :3], cv2.COLOR_BGR2RGB)


def _by_pillow(data: bytes) -> Array:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def classes_of_categories(pixels: Array, segments: Segments, labels: LabelSpace) -> Array:
    """Stuff: category ids (H, W) to uint8 class indices; 0, unlabelled, becomes `IGNORE`."""
    index = np.full(256, IGNORE, np.uint8)
    index[list(labels.ids)] = np.arange(len(labels))
    return np.asarray(index[pixels])


def ids_of_colours(pixels: Array) -> Array:
    """Panoptic colours (H, W, 3 or more) to segment ids (H, W) int32: R + 256 G + 65536 B."""
    weights = np.array([1, 256, 65536], np.int32)
    return np.asarray(pixels[..., :3].astype(np.int32) @ weights)


def number_segments(pixels: Array, segments: Segments) -> Array:
    """Panoptic colours (H, W, 3) to rows of `segments`, from 1, as (H, W) int32.

    Pixels of no segment and of crowds, which may hold anything, become 0.
    """
    if not len(segments.ids):
        return np.zeros(pixels.shape[:2], np.int32)
    found = ids_of_colours(pixels)
    order = np.argsort(segments.ids)
    ids = segments.ids[order].astype(np.int32)
    number = np.where(segments.crowd, 0, np.arange(1, len(ids) + 1))[order].astype(np.int32)
    place = np.searchsorted(ids, found).clip(max=len(ids) - 1)
    return np.asarray(np.where(ids[place] == found, number[place], np.int32(0)))


def classes_of_segments(pixels: Array, segments: Segments, labels: LabelSpace) -> Array:
    """Panoptic: colours (H, W, 3) to uint8 class indices, `IGNORE` in crowds and where none is."""
    table = np.concatenate([[IGNORE], segments.labels]).astype(np.uint8)
    return np.asarray(table[number_segments(pixels, segments)])


TO_CLASSES = {"stuff": classes_of_categories, "panoptic": classes_of_segments}
"""Annotation kind → what turns the pixels of its label files into class indices."""
