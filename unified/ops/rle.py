"""COCO's compressed run lengths as they stand in a json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from unified.specs import Array


def encode(mask: Array) -> dict[str, Any]:
    """(H, W), non-zero inside."""
    return as_json(coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)))


def as_json(rle: Mapping[str, Any]) -> dict[str, Any]:
    """pycocotools' own form, with text instead of bytes."""
    height, width = rle["size"]
    return {"size": [int(height), int(width)], "counts": rle["counts"].decode()}
