"""Federated labels: `lvis_<split>.json`, of LVIS v1 or v0.5."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
import torch

from unified.arrays import Array, Ragged
from unified.data.coco import document as coco
from unified.data.coco.document import Document, Id, check_name
from unified.data.coco.objects import check_area, check_box, check_objects, is_empty, sizes_of
from unified.data.coco.table import Table, TableBuilder
from unified.data.sources import Sources
from unified.kinds.federated import (
    FederatedAsk,
    FederatedLabel,
    FederatedSpace,
    Frequency,
    Recognitions,
)

FIX = "an annotation needs id, image_id, category_id and bbox [x, y, width, height]"
LISTS = "each image needs neg_category_ids and not_exhaustive_category_ids, lists of category ids"
IMAGE = f"{LISTS}, beside id, height, width, and coco_url or file_name"
CATEGORY = "each category needs id, name and frequency, which is r, c or f"
HOST = "images.cocodataset.org"


class Category(msgspec.Struct):
    """An entry of `categories`."""

    id: Id
    name: str
    frequency: Frequency


class Image(coco.Image, kw_only=True):
    """An entry of `images`: where it is, and what is known of it."""

    neg_category_ids: list[Id]
    not_exhaustive_category_ids: list[Id]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name(self.name("folder"))

    def name(self, folder: str) -> str:
        """COCO's URL goes first: lists of v1 name images of several folders, and have no other
        name; those of v0.5 have the file names of 2014.
        """
        try:
            url = urlsplit(self.coco_url or "")
        except ValueError as error:
            raise ValueError(f"{error} - at `$.coco_url`") from error
        if url.hostname == HOST or not self.file_name:
            match PurePosixPath(url.path).parts[1:]:
                case *_, of_url, file:
                    return f"{of_url}/{file}"
        return super().name(folder)


class Annotation(msgspec.Struct):
    """An entry of `annotations`."""

    id: Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    area: float | None = None

    def __post_init__(self) -> None:
        check_box(self.bbox)
        check_area(self.area)


class FederatedObjects:
    """The objects of a split, and of which categories an image has no others.

    Attributes:
        table: the objects.
        complete: (images,) class indices of the categories whose objects are all annotated.
    """

    kind = FederatedAsk.kind

    def __init__(self, sources: Sources) -> None:
        self.file = self.json(sources)
        document = Document(self.file)
        self.images = document.images(sources.image_split, Image, IMAGE)
        categories = document.categories(Category, CATEGORY)
        ids = tuple(category.id for category in categories)
        self.space = FederatedSpace(
            ids,
            tuple(category.name for category in categories),
            tuple(category.frequency for category in categories),
        )
        builder = TableBuilder(document)
        for row in document.entries("annotations", Annotation, FIX):
            area = row.bbox[2] * row.bbox[3] if row.area is None else row.area
            builder.add(row.image_id, row.id, row.category_id, row.bbox, area, is_empty(row.bbox))
        self.table: Table = builder.build(self.images.ids, ids)
        self.known: Array = np.ones(len(self.images), bool)
        self._read_images(document)

    @staticmethod
    def json(sources: Sources) -> Path:
        """Where the json is."""
        return sources.json("lvis")

    def _read_images(self, document: Document) -> None:
        """The categories that each image was searched for."""
        index = {key: label for label, key in enumerate(self.space.ids)}
        place = {int(key): row for row, key in enumerate(self.images.ids)}
        complete = [np.zeros(0, np.int64)] * len(place)
        for image in document.entries("images", Image, LISTS):
            row = place[image.id]
            lists = (image.neg_category_ids, image.not_exhaustive_category_ids)
            for key in (key for keys in lists for key in keys if key not in index):
                raise document.refuse(
                    f"image {image.id}", f"it names category {key}, which is not listed", LISTS
                )
            absent, open_ended = (np.array([index[k] for k in keys], np.int64) for keys in lists)
            present = np.unique(self.table.labels[self.table.rows(row)])
            wrong = np.intersect1d(absent, present)
            if len(wrong):
                raise document.refuse(
                    f"image {image.id}",
                    f"category {self.space.ids[wrong[0]]} is annotated, and said to be absent",
                    "drop it from neg_category_ids, or drop the annotation",
                )
            searched = np.union1d(absent, present)
            complete[row] = np.setdiff1d(searched, open_ended)
        self.complete = Ragged(
            np.concatenate(complete), np.cumsum([0, *map(len, complete)]).astype(np.int64)
        )

    def read(self, index: int) -> FederatedLabel:
        complete = self.complete[index]
        height, width = self.images.size(index)
        whole = np.tile(np.array([0, 0, width, height], np.float32), (len(complete), 1))
        found = self.table.objects(index).countable()
        return FederatedLabel(
            boxes=np.concatenate([found.boxes, whole]),
            labels=np.concatenate([found.labels, complete]),
            complete=np.arange(len(found) + len(complete)) >= len(found),
        )

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
        """The json as it stands, with what evaluators need and LVIS leaves out."""
        document: dict[str, Any] = json.loads(self.file.read_text())
        for number, row in enumerate(document["annotations"], 1):
            row["id"] = number  # evaluators pass over an id of 0, and over repeated ones
            row["iscrowd"] = int(is_empty(row["bbox"]))
            if row.get("area") is None:
                row["area"] = row["bbox"][2] * row["bbox"][3]
        return document

    def truth(self) -> dict[str, Any]:
        """LVIS's json."""
        return self.document

    def result(self, index: int) -> Recognitions:
        found = self.table.objects(index).countable()
        boxes, labels = torch.from_numpy(found.boxes), torch.from_numpy(found.labels)
        return Recognitions(boxes, torch.ones(len(boxes)), labels)
