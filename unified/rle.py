"""COCO's compressed run lengths as they stand in a json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from unified.arrays import Array

Rle = dict[str, Any]
"""`size` [height, width] and `counts`, as text."""


def encode(mask: Array) -> Rle:
    """(H, W), non-zero inside."""
    return as_json(coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)))


def decode(rle: Mapping[str, Any]) -> Array:
    """(H, W) uint8 of zeros and ones."""
    # The plural avoids a copy that numpy 2 warns of.
    return np.asarray(coco_mask.decode([dict(rle)]))[:, :, 0]


def as_json(rle: Mapping[str, Any]) -> Rle:
    """pycocotools' own form, with text instead of bytes."""
    height, width = rle["size"]
    return {"size": [int(height), int(width)], "counts": rle["counts"].decode()}
