"""Objects: `instances_<split>.json`, or `person_keypoints_<split>.json` where that is all."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import torch
from pycocotools import mask as coco_mask

from unified.arrays import Array
from unified.data.coco.document import Category, Document, Flag, Id
from unified.data.coco.table import FARTHEST, Table, TableBuilder
from unified.data.sources import Sources
from unified.errors import DataError
from unified.kinds.kind import Categories, Images
from unified.kinds.objects import Detections, ObjectAsk, ObjectLabel, ObjectSpace
from unified.rle import lengths

log = logging.getLogger(__name__)
FIX = (
    "an annotation needs id, image_id, category_id and bbox [x, y, width, height]; its "
    "segmentation is a list of polygons [x1, y1, x2, y2, …] or run lengths"
)
FEWEST = 6
"""Numbers of a polygon with an inside; shorter ones cover nothing."""


class RunLengths(msgspec.Struct):
    """A mask as COCO's run lengths, compressed or not."""

    size: tuple[int, int]
    counts: str | list[Annotated[int, msgspec.Meta(ge=0, le=2**31)]]

    def __post_init__(self) -> None:
        counts = self.counts if isinstance(self.counts, list) else lengths(self.counts)
        covered = -1 if min(counts, default=0) < 0 else sum(counts)
        if covered != self.size[0] * self.size[1]:
            raise ValueError(
                f"Expected run lengths of the {self.size[0]}×{self.size[1]} pixels that `size` "
                f"says, got others - at `$.segmentation.counts`"
            )

    def compressed(self) -> bytes:
        """As pycocotools has them."""
        if isinstance(self.counts, str):
            return self.counts.encode()
        rle: dict[str, Any] = coco_mask.frPyObjects(
            {"size": list(self.size), "counts": self.counts}, *self.size
        )
        return bytes(rle["counts"])


class Annotation(msgspec.Struct):
    """An entry of `annotations` with a box."""

    id: Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: Flag = 0
    segmentation: list[list[float]] | RunLengths | None = None
    track_id: Id | None = None
    identity: Id | None = None

    def __post_init__(self) -> None:
        check_box(self.bbox)
        check_area(self.area)
        if isinstance(self.segmentation, list):
            for index, ring in enumerate(self.segmentation):
                if len(ring) % 2:
                    raise ValueError(
                        f"Expected pairs of coordinates, got {len(ring)} numbers - at "
                        f"`$.segmentation[{index}]`"
                    )


def check_box(box: tuple[float, ...]) -> None:
    """Refuse a box [x, y, width, height] that is none, with a ValueError."""
    if max(map(abs, box)) > FARTHEST or box[2] < 0 or box[3] < 0:
        raise ValueError(f"Expected a box with a size, got {list(box)} - at `$.bbox`")


def is_empty(box: Sequence[float]) -> bool:
    """Whether a box [x, y, width, height] has no inside: it can neither be learnt nor be found.

    COCO has such boxes; they count as crowds do, for which no evaluator asks.
    """
    return not (box[2] > 0 and box[3] > 0)


def check_area(area: float | None) -> None:
    """Refuse an area that is none, with a ValueError."""
    if area is not None and not 0 <= area <= FARTHEST**2:
        raise ValueError(f"Expected an area in pixels, got {area} - at `$.area`")


def check_size(
    document: Document, sizes: Mapping[int, tuple[int, int]], image: int, row: int, rle: RunLengths
) -> None:
    """Refuse run lengths of another size than the image's: what they cover is nowhere."""
    size = sizes.get(image, tuple(rle.size))
    if size != tuple(rle.size):
        raise document.refuse(
            f"annotation {row}",
            f"its run lengths are of {rle.size[1]}×{rle.size[0]} pixels, image {image} has "
            f"{size[1]}×{size[0]}",
            "write run lengths at the size of their image",
        )


class Objects:
    """The objects of a split.

    Attributes:
        table: all of them; masks are read from it, too.
    """

    kind = ObjectAsk.kind

    def __init__(self, sources: Sources) -> None:
        self.file = self.json(sources)
        document = Document(self.file)
        self.images: Images = document.images(sources.image_split)
        categories = document.categories(Category)
        builder, identified = TableBuilder(document), False
        sizes = self.images.sizes()
        for row in document.entries("annotations", Annotation, FIX):
            identity = row.identity if row.track_id is None else row.track_id
            identified |= identity is not None
            polygons = row.segmentation if isinstance(row.segmentation, list) else []
            if isinstance(row.segmentation, RunLengths):
                check_size(document, sizes, row.image_id, row.id, row.segmentation)
            builder.add(
                row.image_id, row.id, row.category_id, row.bbox,
                row.bbox[2] * row.bbox[3] if row.area is None else row.area,
                bool(row.iscrowd) or is_empty(row.bbox), identity,
                [r for r in polygons if len(r) >= FEWEST],
                row.segmentation.compressed() if isinstance(row.segmentation, RunLengths) else b"",
            )  # fmt: skip
        ids = tuple(category.id for category in categories)
        self.space = ObjectSpace(ids, tuple(category.name for category in categories), identified)
        self.table: Table = builder.build(self.images.ids, ids)
        self.known: Array = np.ones(len(self.images), bool)

    @staticmethod
    def json(sources: Sources) -> Path:
        """The json that the objects are in."""
        people = sources.json("person_keypoints")
        file = sources.json("instances")
        return people if people.exists() and not file.exists() else file

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
        """The json as it stands, with what evaluators need and a file may leave out."""
        document: dict[str, Any] = json.loads(self.file.read_text())
        for number, row in enumerate(document["annotations"], 1):
            row["id"] = number  # evaluators pass over an id of 0, and over repeated ones
            if row.get("area") is None:
                row["area"] = row["bbox"][2] * row["bbox"][3]
            row["iscrowd"] = int(bool(row.get("iscrowd")) or is_empty(row["bbox"]))
        return document

    def truth(self) -> dict[str, Any]:
        """COCO's json."""
        return self.document

    def result(self, index: int) -> Detections:
        return perfect(self.read(index))


def sizes_of(table: Table, images: Images, side: int) -> Array:
    """(A, 2) widths and heights of the countable boxes, in letterboxed inputs of `side`."""
    scale = side / np.maximum(images.heights, images.widths)
    per_row = np.repeat(scale, np.diff(table.first))
    sides = (table.boxes[:, 2:] - table.boxes[:, :2]) * per_row[:, None]
    return np.asarray(sides[~table.crowd])


def perfect(label: ObjectLabel) -> Detections:
    """Annotations in the form of a result; no evaluator asks for crowds."""
    own = label.countable()
    boxes, labels = torch.from_numpy(own.boxes), torch.from_numpy(own.labels)
    return Detections(boxes, torch.ones(len(boxes)), labels)


def _warn_of_empty(file: Path, table: Table) -> None:
    """Boxes without an inside count as crowds do."""
    empty = (table.boxes[:, 2:] <= table.boxes[:, :2]).any(1)
    if empty.any():
        log.warning(
            "%s: %d of %d boxes have no width or no height, and are passed over, first: "
            "annotation %d",
            file, empty.sum(), len(table.boxes), table.ids[empty.argmax()],
        )  # fmt: skip


def _warn_of_outside(file: Path, table: Table, images: Images) -> None:
    """Boxes that no pixel of their image is in are a mistake of units or of images."""
    rows = np.repeat(np.arange(len(images)), np.diff(table.first))
    sizes = np.stack([images.widths, images.heights], -1)[rows]
    outside = ((table.boxes[:, 2:] <= 0) | (table.boxes[:, :2] >= sizes)).any(1)
    if outside.any():
        log.warning(
            "%s: %d of %d boxes lie outside of their images, first: annotation %d of image %d",
            file, outside.sum(), len(table.boxes), table.ids[outside.argmax()],
            images.ids[rows[outside.argmax()]],
        )  # fmt: skip


def check_objects(file: Path, table: Table, images: Images, space: Categories, learn: bool) -> None:
    """Refuse a split without objects; say which categories cannot be learnt."""
    if not len(space):
        return  # derived from labels that have no things
    counts = np.bincount(table.labels[~table.crowd], minlength=len(space))
    absent = [space.names[i] for i in np.flatnonzero(counts == 0)]
    if len(absent) == len(space):
        raise DataError(f"{file} annotates no object", "choose a split with annotations")
    _warn_of_empty(file, table)
    _warn_of_outside(file, table, images)
    if absent and learn:
        shown = ", ".join(absent[:5]) + (", …" if len(absent) > 5 else "")
        log.warning(
            "%d of %d categories have no annotated image and cannot be learnt: %s\n"
            "  fix: add images of them, or drop them from categories in %s",
            len(absent), len(space), shown, file,
        )  # fmt: skip
