"""Label files of panoptic and stuff segmentation as maps of class indices."""

from __future__ import annotations

import numpy as np
from PIL import Image, UnidentifiedImageError

from unified.errors import DataError
from unified.specs import IGNORE, Array, LabelSpace, Segments


def read_category_map(segments: Segments, labels: LabelSpace, shape: tuple[int, int]) -> Array:
    """A stuff pixel map, whose values are category ids, as (H, W) uint8 class indices.

    Values that are no category, as 0 for unlabelled, become `IGNORE`.
    """
    index = np.full(256, IGNORE, np.uint8)
    index[list(labels.ids)] = np.arange(len(labels))
    return np.asarray(index[_read(segments.file, None, shape)])


def read_segment_map(segments: Segments, labels: LabelSpace, shape: tuple[int, int]) -> Array:
    """A panoptic PNG, whose colours are segment ids, as (H, W) uint8 class indices.

    Pixels of no segment and of crowds, which may hold anything, become `IGNORE`.
    """
    rgb = _read(segments.file, "RGB", shape).astype(np.int64)
    found = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
    order = np.argsort(segments.ids)
    ids = segments.ids[order]
    classes = np.where(segments.crowd, IGNORE, segments.labels)[order].astype(np.uint8)
    place = np.searchsorted(ids, found).clip(max=max(len(ids) - 1, 0))
    if not len(ids):
        return np.full(shape, IGNORE, np.uint8)
    return np.asarray(np.where(ids[place] == found, classes[place], np.uint8(IGNORE)))


def _read(file: str, mode: str | None, shape: tuple[int, int]) -> Array:
    """Pixels in a colour mode, or as stored: an index image's values are its indices."""
    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert(mode) if mode else image)
    except (OSError, UnidentifiedImageError) as error:
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
    return pixels


MAP_READERS = {"stuff": read_category_map, "panoptic": read_segment_map}
"""Annotation kind → what turns its label file into class indices."""
