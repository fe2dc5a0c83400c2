"""Segments: `panoptic_<split>.json` and its PNGs."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import torch

from unified.arrays import IGNORE, Array, Ragged
from unified.data.coco.document import Document, Flag, Id, check_name
from unified.data.coco.objects import check_box
from unified.data.coco.png import read_colours
from unified.data.coco.table import Table, TableBuilder
from unified.data.sources import Sources
from unified.errors import DataError
from unified.kinds.kind import Images
from unified.kinds.segments import (
    VOID,
    PanopticSegments,
    PanopticTruth,
    SegmentAsk,
    SegmentLabel,
    SegmentSpace,
)

FIX = (
    "a panoptic annotation needs image_id, file_name and segments_info; each segment id, "
    "category_id, area and bbox [x, y, width, height]"
)


class Segment(msgspec.Struct):
    """An entry of `segments_info`."""

    id: Annotated[int, msgspec.Meta(ge=0, lt=2**24)]
    category_id: Id
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: Flag = 0

    def __post_init__(self) -> None:
        check_box(self.bbox)
        if self.id == VOID:
            raise ValueError(f"Expected the id of a segment, got {VOID}, which is of none")


class Annotation(msgspec.Struct):
    """An entry of `annotations`: one image."""

    image_id: Id
    file_name: str
    segments_info: list[Segment]

    def __post_init__(self) -> None:
        check_name(self.file_name)
        ids = [segment.id for segment in self.segments_info]
        if len(set(ids)) < len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise ValueError(f"Expected segments once, got {twice} twice - at `$.segments_info`")


class PanopticCategory(msgspec.Struct):
    """An entry of `categories`."""

    id: Id
    name: str
    isthing: Flag


class PanopticMaps:
    """One PNG per image, whose colours are segment ids.

    Attributes:
        table: the segments of all images.
        pngs: (images,) names of the PNGs in `folder`, empty for an image without one.
    """

    kind = SegmentAsk.kind

    def __init__(self, sources: Sources) -> None:
        self.file = self.json(sources)
        self.folder = self.file.with_suffix("")
        document = Document(self.file)
        self.images: Images = document.images(sources.image_split)
        self.space = self._space(document)
        builder = TableBuilder(document)
        names: dict[int, str] = {}
        files: dict[str, int] = {}
        for row in document.entries("annotations", Annotation, FIX):
            if row.image_id in names:
                raise document.refuse(
                    f"image {row.image_id}", "it is annotated twice", "keep one of the annotations"
                )
            names[row.image_id] = row.file_name
            if files.setdefault(row.file_name, row.image_id) != row.image_id:
                raise document.refuse(
                    f"image {row.image_id}",
                    f"its file_name {row.file_name} is that of image {files[row.file_name]}, too",
                    "give every image a PNG of its own",
                )
            for part in row.segments_info:
                builder.add(
                    row.image_id, part.id, part.category_id, part.bbox, part.area,
                    bool(part.iscrowd),
                )  # fmt: skip
        self.table: Table = builder.build(self.images.ids, self.space.ids)
        ids = self.images.ids.tolist()
        self.known: Array = np.array([key in names for key in ids])
        self.pngs = Ragged.of_texts(names.get(key, "") for key in ids)

    @staticmethod
    def json(sources: Sources) -> Path:
        """Where the json is."""
        return sources.json("panoptic")

    def _space(self, document: Document) -> SegmentSpace:
        rows = document.categories(PanopticCategory)
        if len(rows) >= IGNORE:
            raise document.refuse(
                "categories", f"there are {len(rows)}", "a class index has one byte: use up to 254"
            )
        return SegmentSpace(
            tuple(row.id for row in rows), tuple(row.name for row in rows),
            tuple(bool(row.isthing) for row in rows),
        )  # fmt: skip

    def png(self, index: int) -> Path:
        """The label file of one image."""
        return self.folder / self.pngs.text(index)

    def pixels(self, index: int) -> Array:
        """(H, W, 3) uint8, the ids of the segments of one image."""
        return read_colours(self.png(index), self.images.size(index))

    def read(self, index: int) -> SegmentLabel:
        rows = self.table.rows(index)
        table = self.table
        return SegmentLabel(
            self.pixels(index),
            table.ids[rows],
            table.labels[rows],
            table.crowd[rows],
            str(self.png(index)),
        )

    def files(self) -> list[Path]:
        return [self.png(index) for index in np.flatnonzero(self.known).tolist()]

    def check(self, learn: bool) -> None:
        """Refuse a json that lists images and annotates none."""
        if not self.known.any():
            raise DataError(f"{self.file} annotates no image", "choose a split with annotations")

    @cached_property
    def annotations(self) -> PanopticTruth:
        """The annotations as they stand in the json."""
        document = json.loads(self.file.read_text())
        for row in document["annotations"]:
            for segment in row["segments_info"]:
                segment.setdefault("iscrowd", 0)
        return PanopticTruth({row["image_id"]: row for row in document["annotations"]}, self.folder)

    def truth(self) -> PanopticTruth:
        """What panopticapi reads."""
        return self.annotations

    def result(self, index: int) -> PanopticSegments:
        label = self.read(index)
        labels = torch.from_numpy(label.labels)
        return PanopticSegments(torch.from_numpy(label.rows()), labels, torch.ones(len(labels)))
