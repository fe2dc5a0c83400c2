"""Ids of segments as colours of pixels, and what is known of an id."""

from __future__ import annotations

import threading

import cv2
import numpy as np

from unified.arrays import Array

IDS = 1 << 24
"""Ids that a colour can name."""
_tables = threading.local()


def numbers_of(pixels: Array) -> Array:
    """(H, W, 3) uint8, the lowest byte first → (H, W) uint32 ids."""
    four = cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA)
    return np.asarray(four.view("<u4")[..., 0] & np.uint32(IDS - 1))


def look_up(numbers: Array, ids: Array, values: Array, kind: type[np.unsignedinteger]) -> Array:
    """The value of the id of every number; the largest of its kind where the id is not listed.

    A table of all ids is read faster than a list of those that there are is searched. It is made
    once per thread, and what is written into it is taken back.

    Args:
        numbers: (…) ids below `IDS`.
        ids, values: (S,) what is listed.
        kind: `np.uint8` or `np.uint16`.
    """
    table = getattr(_tables, kind.__name__, None)
    if table is None:
        table = np.zeros(IDS, kind)
        setattr(_tables, kind.__name__, table)
    table[ids] = values + 1
    found = table[numbers] - kind(1)
    table[ids] = 0
    return np.asarray(found)
