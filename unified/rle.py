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


def lengths(counts: str) -> list[int]:
    """The runs that COCO's compressed counts say; a negative one where they are no run lengths.

    Characters carry five bits of a number and say whether more follow; from the third run on it
    is the difference to the run before the last.
    """
    codes = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    if not len(codes) or ((codes < 0) | (codes > 63)).any() or codes[-1] & 32:
        return [-1]
    starts = np.flatnonzero(np.concatenate([[True], (codes[:-1] & 32) == 0]))
    place = np.arange(len(codes)) - np.repeat(starts, np.diff([*starts, len(codes)]))
    if place.max() > 6:
        return [-1]
    values = np.add.reduceat((codes & 31) << (5 * place), starts)
    ends = np.append(starts[1:], len(codes)) - 1
    values -= np.where(codes[ends] & 16, 1 << (5 * (place[ends] + 1)), 0)
    # Run i ≥ 3 is relative to run i − 2: the odd ones sum up from 1, the even ones from 2.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return [int(value) for value in values]


def as_json(rle: Mapping[str, Any]) -> Rle:
    """pycocotools' own form, with text instead of bytes."""
    height, width = rle["size"]
    return {"size": [int(height), int(width)], "counts": rle["counts"].decode()}
