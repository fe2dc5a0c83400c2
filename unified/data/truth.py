"""Annotations in the form of perfect predictions: to draw them, and to test what writes and scores.

Crowd regions are left out; no evaluator asks a prediction for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask

from unified.data.coco import CocoSplit
from unified.data.geometry import select
from unified.data.maps import number_segments, read_labels
from unified.ops.rle import as_json, encode
from unified.specs import (
    Array,
    Detections,
    Instances,
    Masks,
    PanopticSegments,
    PixelClasses,
    Prediction,
)


def truth_like(prediction: Prediction, split: CocoSplit, index: int) -> Prediction:
    """What the tasks of a prediction should have said of an image, where that can be drawn."""
    truth: Prediction = {}
    for task, result in prediction.items():
        read: Callable[[CocoSplit, int], Any] | None = READERS.get(type(result))
        found = read(split, index) if read else None
        if isinstance(result, PixelClasses):
            found = true_classes(split, index, result.kind)
        if found is not None:
            truth[task] = found
    return truth


def true_boxes(split: CocoSplit, index: int) -> Detections | None:
    """The boxes of an image, with certainty."""
    objects = _countable(split.instances(index, masks=False))
    if objects is None:
        return None
    boxes, labels = torch.from_numpy(objects.boxes.copy()), torch.from_numpy(objects.labels.copy())
    return Detections(boxes, torch.ones(len(boxes)), labels)


def true_masks(split: CocoSplit, index: int) -> Masks | None:
    """The masks of an image; objects without one are empty."""
    objects = _countable(split.instances(index))
    if objects is None:
        return None
    height, width = int(split.heights[index]), int(split.widths[index])
    boxes, labels = torch.from_numpy(objects.boxes.copy()), torch.from_numpy(objects.labels.copy())
    rles = [_rle_of(objects, place, height, width) for place in range(len(objects))]
    return Masks(boxes, torch.ones(len(boxes)), labels, rles)


def true_classes(split: CocoSplit, index: int, kind: str) -> PixelClasses | None:
    """The class map of an image."""
    classes = split.class_map(kind, index)
    return None if classes is None else PixelClasses(torch.from_numpy(classes), kind)


def true_segments(split: CocoSplit, index: int) -> PanopticSegments | None:
    """The panoptic segments of an image."""
    segments = split.segments("panoptic", index)
    if segments is None:
        return None
    pixels = read_labels(segments.file, (int(split.heights[index]), int(split.widths[index])), True)
    labels = torch.from_numpy(segments.labels.copy())
    numbers = torch.from_numpy(number_segments(pixels, segments))
    return PanopticSegments(numbers, labels, torch.ones(len(labels)))


READERS: dict[type, Callable[[CocoSplit, int], Any]] = {
    Detections: true_boxes,
    Masks: true_masks,
    PanopticSegments: true_segments,
}


def _countable(objects: Instances | None) -> Instances | None:
    return None if objects is None else select(objects, ~objects.crowd)


def _rle_of(objects: Instances, place: int, height: int, width: int) -> dict[str, Any]:
    if place in objects.rles:
        return as_json(objects.rles[place])
    rings: list[list[float]] = []
    if objects.rings is not None:
        own = np.flatnonzero(objects.rings.owner == place)
        offsets: Array = objects.rings.offsets
        rings = [objects.rings.xy[offsets[r] : offsets[r + 1]].ravel().tolist() for r in own]
    if not rings:
        return encode(np.zeros((height, width)))
    return as_json(coco_mask.merge(coco_mask.frPyObjects(rings, height, width)))


def instances_document(split: CocoSplit, masks: bool) -> dict[str, Any]:
    """The annotations that boxes or masks are scored against, as COCO's json has them."""
    if split.derived_segment is not None:
        return _derived_document(split, masks)
    document: dict[str, Any] = json.loads(split.instances_file.read_text())
    return document


def _derived_document(split: CocoSplit, masks: bool) -> dict[str, Any]:
    """Derived instances as the json that an evaluator reads; masks cost one PNG per image."""
    table, labels = split.tables["instances"], split.labels["instances"]
    images, rows = [], []
    for index in np.flatnonzero(split.has_instances).tolist():
        image_id = int(split.ids[index])
        size = {"height": int(split.heights[index]), "width": int(split.widths[index])}
        images.append({"id": image_id} | size)
        found = split.instances(index, masks)
        assert found is not None
        areas = table.areas[table.rows(index)].tolist()
        for place, (x1, y1, x2, y2) in enumerate(found.boxes.tolist()):
            row = {
                "id": int(found.ids[place]),
                "image_id": image_id,
                "category_id": labels.ids[int(found.labels[place])],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": areas[place],
                "iscrowd": int(found.crowd[place]),
            }
            rows.append(row | ({"segmentation": as_json(found.rles[place])} if masks else {}))
    categories = [{"id": i, "name": n} for i, n in zip(labels.ids, labels.names, strict=True)]
    return {"images": images, "annotations": rows, "categories": categories}
