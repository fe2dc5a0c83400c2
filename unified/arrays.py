"""Words about arrays that every room uses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

Json = Any
"""What `json.dumps` takes."""

IGNORE = 255
"""Value of a pixel of which nothing is known, in a map of class indices."""


CHUNK = 1 << 15
"""Rows that are reordered at once."""


@dataclass
class Ragged:
    """N byte strings or number sequences of any length, flat.

    A worker process shares these pages with its parent; millions of small Python objects would
    be copied into every worker as soon as their reference counts are touched.
    """

    values: Array
    offsets: Array

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Array:
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def text(self, index: int) -> str:
        """Row `index` as UTF-8 text."""
        return self[index].tobytes().decode()

    def take(self, order: Array) -> Ragged:
        """The rows `order`; by parts, as an index of all values would be larger than they are."""
        offsets = offsets_of(np.diff(self.offsets)[order])
        values = np.empty(int(offsets[-1]), self.values.dtype)
        for begin in range(0, len(order), CHUNK):
            rows = order[begin : begin + CHUNK]
            counts = self.offsets[1:][rows] - self.offsets[:-1][rows]
            low, high = offsets[begin], offsets[begin + len(rows)]
            starts = np.repeat(self.offsets[:-1][rows] - offsets[begin : begin + len(rows)], counts)
            values[low:high] = self.values[starts + np.arange(low, high)]
        return Ragged(values, offsets)

    @classmethod
    def of_bytes(cls, rows: Iterable[bytes]) -> Ragged:
        """From byte strings."""
        rows = list(rows)
        return cls(np.frombuffer(b"".join(rows), np.uint8), offsets_of(map(len, rows)))

    @classmethod
    def of_texts(cls, texts: Iterable[str]) -> Ragged:
        """From strings."""
        return cls.of_bytes(text.encode() for text in texts)


def offsets_of(lengths: Iterable[int]) -> Array:
    """(N + 1,) running sum that starts at 0."""
    return np.concatenate([[0], np.cumsum(np.fromiter(lengths, np.int64))]).astype(np.int64)
