"""Masks: the polygons and run lengths of the objects."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from pycocotools import mask as coco_mask

from unified.data.coco.objects import Objects
from unified.data.sources import Sources
from unified.errors import DataError
from unified.kinds.masks import MaskAsk, Masks, OutlineLabel
from unified.kinds.outlines import Outlines
from unified.rle import Rle, as_json, encode

NO_OUTLINES = Outlines(np.zeros((0, 2), np.float32), np.zeros(1, np.int64), np.zeros(0, np.int64))


class ObjectMasks:
    """A source over the objects: what their annotations say beside the boxes."""

    kind = MaskAsk.kind
    json = staticmethod(Objects.json)

    def __init__(self, sources: Sources) -> None:
        self.objects = cast(Objects, sources.open("objects"))
        self.file, self.space = self.objects.file, self.objects.space
        self.images, self.known = self.objects.images, self.objects.known

    def read(self, index: int) -> OutlineLabel:
        objects = self.objects.read(index)
        height, width = self.images.size(index)
        return OutlineLabel(
            boxes=objects.boxes,
            keys=objects.keys,
            outlines=objects.outlines or NO_OUTLINES,
            rles={
                place: {"size": [height, width], "counts": counts.decode()}
                for place, counts in self.objects.table.run_lengths(index).items()
            },
        )

    def files(self) -> list[Path]:
        return []

    def check(self, learn: bool) -> None:
        table = self.objects.table
        if not len(table.rings) and not len(table.rles.values):
            raise DataError(
                f"{self.file} has boxes and no masks",
                "add segmentations to its annotations, or leave out the tasks that learn from "
                "masks: task=[…]",
            )

    @cached_property
    def document(self) -> dict[str, Any]:
        """COCO's json with a mask for every object: an empty one, which nothing can match."""
        whole = self.objects.truth()
        sizes = {row["id"]: (row["height"], row["width"]) for row in whole["images"]}
        rows = [
            row
            if row.get("segmentation")
            else row | {"segmentation": encode(np.zeros(sizes[row["image_id"]]))}
            for row in whole["annotations"]
        ]
        return whole | {"annotations": rows}

    def truth(self) -> dict[str, Any]:
        """COCO's json."""
        return self.document

    def result(self, index: int) -> Masks:
        return perfect_masks(self.objects.result(index), self._rles(index))

    def _rles(self, index: int) -> list[Rle]:
        """The masks of the countable objects; empty where there is none."""
        label, size = self.read(index), self.images.size(index)
        rles = dict(label.rles)
        for place, rings in label.outlines.by_object(len(label.boxes)):
            flat = [ring.ravel().tolist() for ring in rings]
            rles[place] = as_json(coco_mask.merge(coco_mask.frPyObjects(flat, *size)))
        countable = np.flatnonzero(~self.objects.read(index).crowd).tolist()
        return [rles.get(place) or encode(np.zeros(size)) for place in countable]


def perfect_masks(objects: Any, rles: list[Rle]) -> Masks:
    """Annotated masks, one per annotated box, in the form of a result."""
    return Masks(objects.boxes, torch.ones(len(rles)), objects.labels, rles)
