"""Instance and stuff labels from panoptic ones, for data that has only these."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from unified.data.maps import ids_of_colours
from unified.data.tables import AnnotationTable, offsets_of
from unified.specs import Array, LabelSpace

OTHER = "other"
"""COCO-Stuff's category for every pixel of a thing."""
OTHER_ID = 183


@dataclass
class Things:
    """The countable segments of a panoptic table as instances.

    Attributes:
        table: their annotations; ids are unique in the split, as the evaluators require.
        labels: the thing categories.
        segment: (A,) the segment id that each instance has in its image's PNG.
    """

    table: AnnotationTable
    labels: LabelSpace
    segment: Array


def things_of(table: AnnotationTable, labels: LabelSpace) -> Things:
    """Boxes, areas and crowds as the panoptic json has them; masks stay in the PNGs."""
    things = np.array(labels.things, bool)
    keep = things[table.labels]
    owner = np.repeat(np.arange(len(table.first) - 1), np.diff(table.first))[keep]
    ids = np.arange(1, keep.sum() + 1, dtype=np.int64)
    chosen = [i for i, thing in enumerate(labels.things) if thing]
    own = replace(
        table,
        first=offsets_of(np.bincount(owner, minlength=len(table.first) - 1)),
        ids=ids,
        identities=ids,
        labels=(np.cumsum(things) - 1)[table.labels[keep]],
        boxes=table.boxes[keep],
        areas=table.areas[keep],
        crowd=table.crowd[keep],
        ring_first=np.zeros(len(ids) + 1, np.int64),
        rles=replace(table.rles, offsets=np.zeros(len(ids) + 1, np.int64)),
        keypoint_row=np.full(len(ids), -1),
    )
    space = LabelSpace(
        ids=tuple(labels.ids[i] for i in chosen),
        names=tuple(labels.names[i] for i in chosen),
        things=(True,) * len(chosen),
    )
    return Things(own, space, table.ids[keep])


def stuff_of(table: AnnotationTable, labels: LabelSpace) -> tuple[AnnotationTable, LabelSpace]:
    """The same segments, things under one category `other`."""
    chosen = [i for i, thing in enumerate(labels.things) if not thing]
    taken = [labels.ids[i] for i in chosen]
    other = OTHER_ID if OTHER_ID not in taken else max(taken) + 1
    ids = sorted([*taken, other])
    name = dict(zip(taken, (labels.names[i] for i in chosen), strict=True)) | {other: OTHER}
    class_of = np.full(len(labels), ids.index(other), np.int64)
    class_of[chosen] = [ids.index(category) for category in taken]
    space = LabelSpace(
        ids=tuple(ids), names=tuple(name[i] for i in ids), things=(False,) * len(ids)
    )
    return replace(table, labels=class_of[table.labels]), space


def masks_of(pixels: Array, segment: Array) -> list[dict[str, Any]]:
    """Compressed run lengths of the segments (N,) in a panoptic PNG (H, W, 3)."""
    # (N, W, H) in memory is what pycocotools wants to see as (H, W, N).
    columns = np.ascontiguousarray(ids_of_colours(pixels).T)
    masks = segment.astype(np.int32)[:, None, None] == columns
    return list(coco_mask.encode(masks.view(np.uint8).transpose(2, 1, 0)))
