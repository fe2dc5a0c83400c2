"""Annotations of a whole split as a handful of arrays.

A worker process shares these pages with its parent; millions of small Python objects would be
copied into every worker as soon as their reference counts are touched.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from unified.errors import DataError
from unified.specs import Array, Instances, Rings


@dataclass
class Ragged:
    """N byte strings or number sequences of any length, flat."""

    values: Array
    offsets: Array

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Array:
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def text(self, index: int) -> str:
        """Row `index` as UTF-8 text."""
        return self[index].tobytes().decode()

    @classmethod
    def of_texts(cls, texts: Iterable[str]) -> Ragged:
        """From strings."""
        encoded = [t.encode() for t in texts]
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets_of(map(len, encoded)))


def offsets_of(lengths: Iterable[int]) -> Array:
    """(N + 1,) running sum that starts at 0."""
    return np.concatenate([[0], np.cumsum(np.fromiter(lengths, np.int64))]).astype(np.int64)


@dataclass
class AnnotationTable:
    """Annotations sorted by image; image i owns rows `first[i]:first[i + 1]`.

    Attributes:
        first: (images + 1,) int64.
        ids, labels, identities: (A,) int64; `labels` are class indices.
        boxes: (A, 4) float32, `x1 y1 x2 y2` in original pixels.
        areas: (A,) float32.
        crowd: (A,) bool.
        rings: polygon r is row r, flat x y x y …, float32.
        ring_first: (A + 1,) int64, annotation a owns polygons `ring_first[a]:ring_first[a + 1]`.
        rles: compressed RLE per annotation, empty where it has polygons or nothing.
        keypoints: (rows, K, 3) float32.
        keypoint_row: (A,) int64 row of `keypoints`, -1 for an annotation without.
    """

    first: Array
    ids: Array
    labels: Array
    identities: Array
    boxes: Array
    areas: Array
    crowd: Array
    rings: Ragged
    ring_first: Array
    rles: Ragged
    keypoints: Array
    keypoint_row: Array

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, image: int) -> slice:
        """The rows of one image."""
        return slice(int(self.first[image]), int(self.first[image + 1]))

    def instances(self, image: int, height: int, width: int) -> Instances:
        """The objects of one image, in original pixels."""
        rows = self.rows(image)
        begin, end = self.ring_first[rows.start], self.ring_first[rows.stop]
        low, high = self.rings.offsets[begin], self.rings.offsets[end]
        counts = np.diff(self.ring_first[rows.start : rows.stop + 1])
        has_rings = end > begin
        return Instances(
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            ids=self.ids[rows],
            identities=self.identities[rows],
            rings=Rings(
                xy=self.rings.values[low:high].reshape(-1, 2),
                offsets=(self.rings.offsets[begin : end + 1] - low) // 2,
                owner=np.repeat(np.arange(len(counts)), counts),
            )
            if has_rings
            else None,
            rles={
                a - rows.start: {"size": [height, width], "counts": self.rles[a].tobytes()}
                for a in range(rows.start, rows.stop)
                if self.rles.offsets[a + 1] > self.rles.offsets[a]
            },
            keypoints=self._keypoints(rows),
        )

    def _keypoints(self, rows: slice) -> Array | None:
        if not len(self.keypoints):
            return None
        index = self.keypoint_row[rows]
        return np.where((index >= 0)[:, None, None], self.keypoints[index], 0).astype(np.float32)


class TableBuilder:
    """Takes annotation dictionaries one by one, in any order, and packs them."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.images, self.ids, self.categories, self.identities = (array("q") for _ in range(4))
        self.boxes, self.areas = array("d"), array("d")
        self.crowd = array("b")
        self.xy, self.ring_lengths, self.ring_counts = array("f"), array("q"), array("q")
        self.rles: dict[int, bytes] = {}
        self.keypoint_rows, self.keypoint_values = array("q"), array("f")
        self.named = False

    def add(self, annotation: Mapping[str, Any], image: int, size: tuple[int, int] | None) -> None:
        """Append one annotation.

        Args:
            annotation: a COCO annotation (instances, keypoints, LVIS, stuff) or panoptic segment.
            image: id of its image.
            size: (height, width) of the image, needed for uncompressed RLE.
        """
        try:
            identifier = annotation["id"]
            x, y, w, h = annotation["bbox"]
            category = annotation["category_id"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.source}: annotation {annotation.get('id', '?')} of image {image} lacks a "
                f"usable {error}",
                "COCO annotations need id, image_id, category_id and bbox [x, y, width, height]",
            ) from error
        row = len(self.ids)
        identity = annotation.get("track_id", annotation.get("identity"))
        self.named |= identity is not None
        self.images.append(image)
        self.ids.append(identifier)
        self.categories.append(category)
        self.identities.append(identifier if identity is None else identity)
        self.boxes.extend((x, y, x + w, y + h))
        self.areas.append(annotation.get("area", w * h))
        self.crowd.append(bool(annotation.get("iscrowd", 0)))
        self._add_segmentation(row, annotation.get("segmentation"), size)
        self._add_keypoints(annotation.get("keypoints"))

    def _add_segmentation(self, row: int, value: Any, size: tuple[int, int] | None) -> None:
        rings = 0
        if isinstance(value, list):
            for ring in value:
                if len(ring) >= 6:
                    self.xy.extend(ring)
                    self.ring_lengths.append(len(ring))
                    rings += 1
        elif isinstance(value, dict):
            counts = value["counts"]
            if isinstance(counts, list):
                height, width = value.get("size", size or (0, 0))
                counts = coco_mask.frPyObjects(value, height, width)["counts"]
            self.rles[row] = counts.encode() if isinstance(counts, str) else bytes(counts)
        self.ring_counts.append(rings)

    def _add_keypoints(self, values: list[float] | None) -> None:
        if values is None:
            self.keypoint_rows.append(-1)
        else:
            self.keypoint_rows.append(1)
            self.keypoint_values.extend(values)

    def build(
        self, position: Mapping[int, int], class_index: Mapping[int, int], joints: int
    ) -> AnnotationTable:
        """Pack.

        Args:
            position: image id → position in the split.
            class_index: category id → class index.
            joints: keypoints per object, 0 when the kind has none.

        Raises:
            DataError: an annotation names an image or category that is not listed.
        """
        images = _look_up(self.images, position, f"{self.source}: an annotation names image")
        labels = _look_up(
            self.categories, class_index, f"{self.source}: an annotation names category"
        )
        order = np.argsort(images, kind="stable")
        ring_first = offsets_of(self.ring_counts)
        ring_order = _expand(order, ring_first)
        rings = Ragged(np.frombuffer(self.xy, np.float32), offsets_of(self.ring_lengths))
        keypoint_row = np.asarray(self.keypoint_rows, np.int64)
        keypoint_row[keypoint_row > 0] = np.arange(int((keypoint_row > 0).sum()))
        rle_bytes = [self.rles.get(int(row), b"") for row in order] if self.rles else []
        return AnnotationTable(
            first=np.searchsorted(images[order], np.arange(len(position) + 1)).astype(np.int64),
            ids=np.asarray(self.ids, np.int64)[order],
            labels=labels[order],
            identities=np.asarray(self.identities, np.int64)[order],
            boxes=np.asarray(self.boxes, np.float32).reshape(-1, 4)[order],
            areas=np.asarray(self.areas, np.float32)[order],
            crowd=np.asarray(self.crowd, bool)[order],
            rings=_take(rings, ring_order),
            ring_first=offsets_of(np.asarray(self.ring_counts, np.int64)[order]),
            rles=Ragged(
                np.frombuffer(b"".join(rle_bytes), np.uint8), offsets_of(map(len, rle_bytes))
            )
            if self.rles
            else Ragged(np.zeros(0, np.uint8), np.zeros(len(order) + 1, np.int64)),
            keypoints=np.asarray(self.keypoint_values, np.float32).reshape(-1, max(joints, 1), 3)
            if joints
            else np.zeros((0, 0, 3), np.float32),
            keypoint_row=keypoint_row[order],
        )


def _look_up(keys: array[int], index: Mapping[int, int], subject: str) -> Array:
    values = np.fromiter((index.get(key, -1) for key in keys), np.int64, len(keys))
    if (values < 0).any():
        culprit = keys[int((values < 0).argmax())]
        raise DataError(
            f"{subject} {culprit}, which the file does not list",
            "the json is inconsistent; list every image and category, or drop the annotation",
        )
    return values


def _expand(order: Array, first: Array) -> Array:
    """Indices of all children of the parents `order`, where parent p owns first[p]:first[p+1]."""
    counts = np.diff(first)[order]
    starts = np.repeat(first[:-1][order] - offsets_of(counts)[:-1], counts)
    return starts + np.arange(int(counts.sum()))


def _take(ragged: Ragged, order: Array) -> Ragged:
    """Rows of `ragged` in a new order."""
    values = ragged.values[_expand(order, ragged.offsets)]
    return Ragged(values, offsets_of(np.diff(ragged.offsets)[order]))
