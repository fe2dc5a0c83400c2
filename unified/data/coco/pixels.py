"""Pixels: `stuff_<split>.json` with pixel maps, or with run lengths where there are none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch

from unified.arrays import IGNORE, Array
from unified.data.coco.document import Category, Document, Id
from unified.data.coco.objects import RunLengths, check_size
from unified.data.coco.png import read_grey
from unified.data.coco.table import Table, TableBuilder
from unified.data.sources import Sources
from unified.errors import DataError
from unified.kinds.kind import Categories
from unified.kinds.pixels import CategoryLabel, PixelAsk, PixelClasses
from unified.rle import decode


class Annotation(msgspec.Struct):
    """An entry of `annotations`; with pixel maps, nothing of it is needed."""

    id: Id
    image_id: Id
    category_id: Id
    segmentation: RunLengths | None = None


class StuffMaps:
    """One map per image, named as the image, whose values are category ids."""

    kind = PixelAsk.kind

    def __init__(self, sources: Sources) -> None:
        self.file = self.json(sources)
        document = Document(self.file)
        self.images = document.images(sources.image_split)
        self.split = sources.split
        self.space = space_of(self.file, document)
        self.folder = self.file.with_name(f"{self.file.stem}_pixelmaps")
        self.table: Table | None = None
        if not self.folder.is_dir():
            self.table = self._read_run_lengths(document)
        self.known: Array = np.ones(len(self.images), bool)
        if self.table is not None:
            self.known = np.diff(self.table.first) > 0
        self.class_of = np.full(256, IGNORE, np.uint8)
        self.class_of[list(self.space.ids)] = np.arange(len(self.space))

    @staticmethod
    def json(sources: Sources) -> Path:
        """Where the json is."""
        return sources.json("stuff")

    def _read_run_lengths(self, document: Document) -> Table:
        builder = TableBuilder(document)
        fix = "without pixel maps an annotation needs id, image_id, category_id and run lengths"
        sizes = self.images.sizes()
        for row in document.entries("annotations", Annotation, fix):
            if row.segmentation:
                check_size(document, sizes, row.image_id, row.id, row.segmentation)
            rle = row.segmentation.compressed() if row.segmentation else b""
            builder.add(row.image_id, row.id, row.category_id, (0, 0, 0, 0), 0, False, rle=rle)
        if not builder.rles:
            raise DataError(
                f"stuff labels have no pixels: there is no folder {self.folder} and {self.file} "
                "has no run lengths",
                "add the pixel maps, or a json with RLE segmentations",
            )
        return builder.build(self.images.ids, self.space.ids)

    def read(self, index: int) -> CategoryLabel:
        size = self.images.size(index)
        if self.table is not None:
            return CategoryLabel(_paint(self.table, index, size, self.space.ids), self.class_of)
        file = self._file(index)
        pixels = read_grey(file, size)
        self._refuse_unknown(pixels, file)
        return CategoryLabel(pixels, self.class_of)

    def _refuse_unknown(self, pixels: Array, file: Path) -> None:
        """A value is the id of a category, or 0 or 255, which say that there is none."""
        present = np.flatnonzero(np.bincount(pixels.ravel(), minlength=256))
        strange = present[(self.class_of[present] == IGNORE) & (present > 0) & (present < IGNORE)]
        if len(strange):
            raise DataError(
                f"label file {file} has the value {strange[0]}, which is the id of no category",
                f"list it among the categories of {self.file}, or write 0 or 255",
            )

    def files(self) -> list[Path]:
        if self.table is not None:
            return []
        return [self._file(index) for index in range(len(self.images))]

    def _file(self, index: int) -> Path:
        """The map of an image, which is called as the image is."""
        name = Path(self.images.names.text(index)).relative_to(self.split)
        return self.folder / name.with_suffix(".png")

    def check(self, learn: bool) -> None:
        """Nothing beyond what reading the json refuses."""

    def truth(self) -> Path:
        """The json; the scores are counted from `result`."""
        return self.file

    def result(self, index: int) -> PixelClasses:
        return PixelClasses(torch.from_numpy(self.read(index).classes()))


def space_of(file: Path, document: Document) -> Categories:
    """The categories; a class index and, in a pixel map, a category id have one byte."""
    categories = document.categories(Category)
    ids = tuple(category.id for category in categories)
    if len(ids) >= IGNORE or not all(0 <= i < IGNORE for i in ids):
        raise DataError(
            f"{file} has {len(ids)} categories, ids from {min(ids)} up to {max(ids)}",
            "pixel maps have one byte: use fewer than 255 categories with ids below 255",
        )
    return Categories(ids, tuple(category.name for category in categories))


def _paint(table: Table, index: int, size: tuple[int, int], ids: Sequence[int]) -> Array:
    """Category ids (H, W) uint8 from run lengths, `IGNORE` where there is none."""
    canvas = np.full(size, IGNORE, np.uint8)
    labels = table.labels[table.rows(index)]
    for place, counts in table.run_lengths(index).items():
        canvas[decode({"size": list(size), "counts": counts}) > 0] = ids[labels[place]]
    return canvas
