"""Objects, masks and pixels from panoptic labels, for data that has only these."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from pycocotools import mask as coco_mask

from unified.arrays import Array, offsets_of
from unified.data.coco.masks import perfect_masks
from unified.data.coco.objects import check_objects, perfect, sizes_of
from unified.data.coco.segments import PanopticMaps
from unified.data.coco.table import Table
from unified.data.sources import Sources
from unified.kinds.kind import Categories
from unified.kinds.masks import MapLabel, MaskAsk, Masks
from unified.kinds.objects import Detections, ObjectAsk, ObjectLabel, ObjectSpace
from unified.kinds.pixels import OTHER, PixelAsk, PixelClasses
from unified.kinds.segments import SegmentLabel
from unified.rle import Rle, as_json

OTHER_ID = 183
"""COCO-Stuff's id of `other`."""


class Derived:
    """A source over the panoptic one."""

    json = staticmethod(PanopticMaps.json)

    def __init__(self, sources: Sources) -> None:
        self.segments = cast(PanopticMaps, sources.open("segments"))
        self.file, self.images = self.segments.file, self.segments.images
        self.known = self.segments.known


class ThingObjects(Derived):
    """The countable segments as objects: boxes, areas and crowds as the panoptic json has them.

    Attributes:
        table: ids are unique in the split, as the evaluators require.
        segment: (A,) the id that each object has in its image's PNG.
    """

    kind = ObjectAsk.kind

    def __init__(self, sources: Sources) -> None:
        super().__init__(sources)
        whole, space = self.segments.table, self.segments.space
        things = np.array(space.things, bool)
        keep = things[whole.labels]
        images = len(self.images)
        owner = np.repeat(np.arange(images), np.diff(whole.first))[keep]
        ids = np.arange(1, keep.sum() + 1, dtype=np.int64)
        self.table: Table = replace(
            whole,
            first=offsets_of(np.bincount(owner, minlength=images)),
            ids=ids,
            identities=ids,
            labels=(np.cumsum(things) - 1)[whole.labels[keep]],
            boxes=whole.boxes[keep],
            areas=whole.areas[keep],
            crowd=whole.crowd[keep],
            ring_first=np.zeros(len(ids) + 1, np.int64),
            rles=replace(whole.rles, offsets=np.zeros(len(ids) + 1, np.int64)),
        )
        self.segment: Array = whole.ids[keep]
        chosen = np.flatnonzero(things).tolist()
        self.space = ObjectSpace(
            tuple(space.ids[i] for i in chosen), tuple(space.names[i] for i in chosen)
        )

    def read(self, index: int) -> ObjectLabel:
        return self.table.objects(index)

    def files(self) -> list[Path]:
        return []

    def check(self, learn: bool) -> None:
        check_objects(self.file, self.table, self.images, self.space, learn)

    def held(self) -> tuple[Array, Array]:
        return self.table.first, self.table.labels

    def sizes(self, side: int) -> Array:
        return sizes_of(self.table, self.images, side)

    @cached_property
    def document(self) -> dict[str, Any]:
        """The objects as COCO's json has them."""
        images, rows = [], []
        for index in np.flatnonzero(self.known).tolist():
            image_id, (height, width) = int(self.images.ids[index]), self.images.size(index)
            images.append({"id": image_id, "height": height, "width": width})
            for row in range(*self.table.rows(index).indices(len(self.table))):
                x1, y1, x2, y2 = self.table.boxes[row].tolist()
                rows.append(
                    {
                        "id": int(self.table.ids[row]),
                        "image_id": image_id,
                        "category_id": self.space.ids[int(self.table.labels[row])],
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": float(self.table.areas[row]),
                        "iscrowd": int(self.table.crowd[row]),
                    }
                )
        categories = [
            {"id": i, "name": n} for i, n in zip(self.space.ids, self.space.names, strict=True)
        ]
        return {"images": images, "annotations": rows, "categories": categories}

    def truth(self) -> dict[str, Any]:
        """COCO's json."""
        return self.document

    def result(self, index: int) -> Detections:
        return perfect(self.read(index))


class ThingMasks(Derived):
    """The pixels of the countable segments, which stay in the PNGs until they are seen."""

    kind = MaskAsk.kind

    def __init__(self, sources: Sources) -> None:
        super().__init__(sources)
        self.objects = cast(ThingObjects, sources.open("objects"))
        self.space = self.objects.space

    def read(self, index: int) -> MapLabel:
        objects = self.objects.read(index)
        segment = self.objects.segment[self.objects.table.rows(index)]
        return MapLabel(objects.boxes, objects.keys, self.segments.pixels(index), segment)

    def files(self) -> list[Path]:
        return self.segments.files()

    def check(self, learn: bool) -> None:
        """Nothing: every segment has pixels."""

    @cached_property
    def document(self) -> dict[str, Any]:
        """The objects with their masks as COCO's json has them; costs one PNG per image."""
        whole = self.objects.truth()
        masks = [rle for i in np.flatnonzero(self.known).tolist() for rle in self._rles(i)]
        rows = [
            row | {"segmentation": rle}
            for row, rle in zip(whole["annotations"], masks, strict=True)
        ]
        return whole | {"annotations": rows}

    def truth(self) -> dict[str, Any]:
        """COCO's json."""
        return self.document

    def result(self, index: int) -> Masks:
        crowd = self.objects.read(index).crowd
        rles = [rle for rle, c in zip(self._rles(index), crowd, strict=True) if not c]
        return perfect_masks(self.objects.result(index), rles)

    def _rles(self, index: int) -> list[Rle]:
        label = self.read(index)
        # (N, W, H) in memory is what pycocotools wants to see as (H, W, N).
        columns = np.ascontiguousarray(label.numbers().T)
        masks = label.segment.astype(np.uint32)[:, None, None] == columns
        return [as_json(r) for r in coco_mask.encode(masks.view(np.uint8).transpose(2, 1, 0))]


class StuffPixels(Derived):
    """The same segments, things under one category `other`."""

    kind = PixelAsk.kind

    def __init__(self, sources: Sources) -> None:
        super().__init__(sources)
        space = self.segments.space
        stuff = [i for i, thing in enumerate(space.things) if not thing]
        taken = [space.ids[i] for i in stuff]
        other = OTHER_ID if OTHER_ID not in taken else max(taken) + 1
        ids = sorted([*taken, other])
        name = dict(zip(taken, (space.names[i] for i in stuff), strict=True)) | {other: OTHER}
        self.class_of: Array = np.full(len(space), ids.index(other), np.int64)
        self.class_of[stuff] = [ids.index(category) for category in taken]
        self.space = Categories(tuple(ids), tuple(name[i] for i in ids))

    def read(self, index: int) -> SegmentLabel:
        label = self.segments.read(index)
        return replace(label, labels=self.class_of[label.labels])

    def files(self) -> list[Path]:
        return self.segments.files()

    def check(self, learn: bool) -> None:
        self.segments.check(learn)

    def truth(self) -> Path:
        """The json; the scores are counted from `result`."""
        return self.file

    def result(self, index: int) -> PixelClasses:
        return PixelClasses(torch.from_numpy(self.read(index).classes()))
