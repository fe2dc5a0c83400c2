"""Keypoints: the joints that `person_keypoints` knows of the objects."""

from __future__ import annotations

import json
import logging
import re
from array import array
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec
import numpy as np
import torch

from unified.arrays import Array
from unified.data.coco.document import Document, Flag, Id
from unified.data.coco.objects import Objects, check_area, check_box
from unified.data.coco.table import FARTHEST
from unified.data.sources import Sources
from unified.errors import DataError
from unified.kinds.keypoints import PIXEL, KeypointAsk, KeypointLabel, Keypoints, KeypointSpace

log = logging.getLogger(__name__)
FIX = "each annotation needs id, image_id, category_id and three numbers per joint"
CATEGORY = (
    "each category needs id, name and keypoints, the names of its joints; it may have a skeleton, "
    "flip_indices and sigmas"
)
SIGMAS = {
    "nose": 0.026, "eye": 0.025, "ear": 0.035, "shoulder": 0.079, "elbow": 0.072,
    "wrist": 0.062, "hip": 0.107, "knee": 0.087, "ankle": 0.089,
}  # fmt: skip
"""COCO's, by the joint's name without its side (Ronchi & Perona 2017)."""
SIGMA = 0.079
"""Of other joints, unless the category says `sigmas`: that of CrowdPose's head and neck."""
NOTED = 0.05
"""Share of joints outside of their images above which somebody should know."""
SIDES = {"left_": "right_", "right_": "left_"}


class Category(msgspec.Struct):
    """An entry of `categories`; `flip_indices` and `sigmas` are ours, and optional."""

    id: Id
    name: str
    keypoints: Annotated[list[str], msgspec.Meta(min_length=1, max_length=1000)]
    skeleton: list[tuple[int, int]] = []
    flip_indices: list[int] | None = None
    sigmas: list[Annotated[float, msgspec.Meta(gt=0, le=1)]] | None = None

    def __post_init__(self) -> None:
        count = len(self.keypoints)
        if len(set(self.keypoints)) < count:
            raise ValueError("Expected joints of different names - at `$.keypoints`")
        if self.flip_indices is not None and sorted(self.flip_indices) != list(range(count)):
            raise ValueError(f"Expected every joint from 0 to {count - 1} - at `$.flip_indices`")
        if self.flip_indices and any(
            self.flip_indices[f] != i for i, f in enumerate(self.flip_indices)
        ):
            raise ValueError("Expected pairs of joints - at `$.flip_indices`")
        if self.sigmas is not None and len(self.sigmas) != count:
            raise ValueError(f"Expected {count} numbers - at `$.sigmas`")

    def flip(self) -> tuple[int, ...]:
        """The joint that each one becomes in a mirror image; empty where it is not known."""
        if self.flip_indices is not None:
            return tuple(self.flip_indices)
        index = {name: place for place, name in enumerate(self.keypoints)}
        partners = [_partner(name) for name in self.keypoints]
        sided = [name != partner for name, partner in zip(self.keypoints, partners, strict=True)]
        unsided = [name for name, has in zip(self.keypoints, sided, strict=True) if not has]
        if (
            any(map(_is_sided, unsided))
            or not any(sided)
            or any(partner not in index for partner in partners)
        ):
            return ()
        return tuple(index[partner] for partner in partners)

    def spread(self) -> tuple[float, ...]:
        """A sigma per joint."""
        if self.sigmas is not None:
            return tuple(self.sigmas)
        return tuple(SIGMAS.get(_without_side(name), SIGMA) for name in self.keypoints)

    def edges(self) -> tuple[tuple[int, int], ...]:
        """The skeleton, counted from 0, without joints that there are not."""
        count = len(self.keypoints)
        return tuple(
            (a - 1, b - 1) for a, b in self.skeleton if 1 <= min(a, b) <= max(a, b) <= count
        )


class Annotation(msgspec.Struct):
    """An entry of `annotations`."""

    id: Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: Flag = 0
    keypoints: list[float] = []

    def __post_init__(self) -> None:
        check_box(self.bbox)
        check_area(self.area)
        if len(self.keypoints) % 3:
            raise ValueError(
                f"Expected threes of numbers, got {len(self.keypoints)} - at `$.keypoints`"
            )
        if any(flag not in (0, 1, 2) for flag in self.keypoints[2::3]):
            raise ValueError("Expected 0, 1 or 2 behind x and y - at `$.keypoints`")
        if any(not abs(value) <= FARTHEST for value in self.keypoints):
            raise ValueError("Expected pixels of the image - at `$.keypoints`")

    @property
    def known(self) -> int:
        """How many of its joints are known."""
        return sum(flag > 0 for flag in self.keypoints[2::3])


class ObjectKeypoints:
    """A source over the objects: the joints of those that have some, found by annotation id.

    Attributes:
        first: (images + 1,) int64; image i owns rows `first[i]:first[i + 1]` of what follows.
        keys, labels: (A,) int64.
        joints: (A, K, 3) float32.
        areas: (A,) float32.
    """

    kind = KeypointAsk.kind

    def __init__(self, sources: Sources) -> None:
        self.objects = cast(Objects, sources.open("objects"))
        self.file = self.json(sources)
        document = Document(self.file)
        self.images = document.images(sources.image_split)
        self.space = self._space(document)
        self.known: Array = np.ones(len(self.images), bool)
        self._read(document)

    @staticmethod
    def json(sources: Sources) -> Path:
        """Where the json is."""
        return sources.json("person_keypoints")

    def _space(self, document: Document) -> KeypointSpace:
        rows = document.categories(Category, CATEGORY)
        if not rows:
            raise document.refuse("categories", "the list is empty", CATEGORY)
        for row in rows:
            if len(row.edges()) < len(row.skeleton):
                log.warning(
                    "%s: the skeleton of %s names joints that it does not have: %d of %d lines "
                    "are left out; it counts them from 1",
                    self.file, row.name, len(row.skeleton) - len(row.edges()), len(row.skeleton),
                )  # fmt: skip
        return KeypointSpace(
            ids=tuple(row.id for row in rows),
            names=tuple(row.name for row in rows),
            joints=tuple(tuple(row.keypoints) for row in rows),
            skeleton=tuple(row.edges() for row in rows),
            flips=tuple(row.flip() for row in rows),
            sigmas=tuple(row.spread() for row in rows),
        )

    def _read(self, document: Document) -> None:
        place = {int(key): index for index, key in enumerate(self.images.ids)}
        index = {key: label for label, key in enumerate(self.space.ids)}
        keys_of = _Keys(self.objects)
        images, keys, labels = array("q"), array("q"), array("q")
        areas, joints, most = array("f"), array("f"), self.space.most
        found: set[tuple[int, int]] = set()
        for row in document.entries("annotations", Annotation, FIX):
            said = f"annotation {row.id}"
            if row.image_id not in place or row.category_id not in index:
                what = (
                    f"image {row.image_id}"
                    if row.image_id not in place
                    else f"category {row.category_id}"
                )
                raise document.refuse(
                    said,
                    f"it names {what}, which the file does not list",
                    "list it, or drop the annotation",
                )
            label = index[row.category_id]
            count = len(self.space.joints[label])
            if row.keypoints and len(row.keypoints) != 3 * count:
                raise document.refuse(
                    said, f"it has {len(row.keypoints) // 3} joints, its category {count}", FIX
                )
            if row.iscrowd or not row.known:
                continue
            key = keys_of.find(row.image_id, row.id)
            owner = None if key is None else keys_of.category(key)
            if key is not None and owner != row.category_id:
                raise document.refuse(
                    said,
                    f"it is of category {row.category_id}, and of {owner} in "
                    f"{self.objects.file.name}",
                    "use the same category ids in both files",
                )
            if key is None:
                raise document.refuse(
                    said,
                    f"{self.objects.file.name} has no object, or several, of this id in image "
                    f"{row.image_id}",
                    "give it the id that the object has there, an id of its own",
                )
            if (row.image_id, key) in found:
                raise document.refuse(
                    said, f"image {row.image_id} has it twice", "drop one of the two"
                )
            found.add((row.image_id, key))
            images.append(place[row.image_id])
            keys.append(key)
            labels.append(label)
            areas.append(_area(row))
            joints.extend(_places(row.keypoints) + [0.0] * 3 * (most - count))
        order = np.argsort(np.asarray(images, np.int64), kind="stable")
        self.first: Array = np.searchsorted(
            np.asarray(images, np.int64)[order], np.arange(len(self.images) + 1)
        )
        self.keys: Array = np.asarray(keys, np.int64)[order]
        self.labels: Array = np.asarray(labels, np.int64)[order]
        self.areas: Array = np.asarray(areas, np.float32)[order]
        self.joints: Array = np.asarray(joints, np.float32).reshape(-1, most, 3)[order]

    @cached_property
    def flips(self) -> Array:
        """(C, K) the joint that each one becomes in a mirror image."""
        rows = [
            list(flip) or range(len(j))
            for flip, j in zip(self.space.flips, self.space.joints, strict=True)
        ]
        padded = [[*row, *range(len(row), self.space.most)] for row in rows]
        return np.array(padded, np.int64).reshape(len(padded), self.space.most)

    def read(self, index: int) -> KeypointLabel:
        rows = slice(int(self.first[index]), int(self.first[index + 1]))
        return KeypointLabel(
            self.keys[rows], self.labels[rows], self.joints[rows], self.areas[rows], self.flips
        )

    def files(self) -> list[Path]:
        return []

    def check(self, learn: bool) -> None:
        """Refuse a split without joints; tell of one whose joints are somewhere else."""
        if not len(self.keys):
            raise DataError(f"{self.file} annotates no joint", "choose a split with annotations")
        rows = np.repeat(np.arange(len(self.images)), np.diff(self.first))
        size = np.stack([self.images.widths[rows], self.images.heights[rows]], 1)[:, None]
        known = self.joints[..., 2] > 0
        xy = self.joints[..., :2] - np.float32(PIXEL)
        outside = ((xy < -1) | (xy > size + 1)).any(-1)[known].mean()
        if outside > NOTED:
            log.warning("%s: %.0f %% of the joints lie outside of their images",
                        self.file, 100 * outside)  # fmt: skip
        elif xy[known].max() <= 1:
            log.warning("%s: no joint is further than 1 from the corner of its image: joints are "
                        "pixels, not shares", self.file)  # fmt: skip

    @cached_property
    def document(self) -> dict[str, Any]:
        """The json with what evaluators need and a file may leave out, or have wrong."""
        document: dict[str, Any] = json.loads(self.file.read_text())
        counts = {category["id"]: len(category["keypoints"]) for category in document["categories"]}
        for number, row in enumerate(document["annotations"], 1):
            row["id"] = number  # evaluators pass over an id of 0, and over repeated ones
            row["area"] = row.get("area") or row["bbox"][2] * row["bbox"][3]
            row.setdefault("iscrowd", 0)
            row["keypoints"] = row.get("keypoints") or [0] * 3 * counts[row["category_id"]]
            row["num_keypoints"] = sum(flag > 0 for flag in row["keypoints"][2::3])
        return document

    def truth(self) -> dict[str, Any]:
        """COCO's json."""
        return self.document

    def result(self, index: int) -> Keypoints:
        label = self.read(index)
        joints = torch.from_numpy(label.joints.copy())
        joints[..., 2] = (joints[..., 2] > 0).float()
        ones = torch.ones(len(joints))
        return Keypoints(ones, torch.from_numpy(label.labels), joints, ones)


class _Keys:
    """Finds objects by image and annotation id."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.place = {int(key): index for index, key in enumerate(objects.images.ids)}
        self.image, self.keys, self.rows = -1, dict[int, int](), slice(0)

    def find(self, image: int, identifier: int) -> int | None:
        """The object's key; None where the objects have no such one, or several."""
        if image != self.image:
            self.image, self.keys = image, {}
            if image in self.place:
                self.rows = self.objects.table.rows(self.place[image])
                ids = self.objects.table.ids[self.rows].tolist()
                once = {identifier for identifier, count in Counter(ids).items() if count == 1}
                self.keys = {i: key for key, i in enumerate(ids) if i in once}
        return self.keys.get(identifier)

    def category(self, key: int) -> int:
        """The category id of an object of the image that was looked at last."""
        return self.objects.space.ids[int(self.objects.table.labels[self.rows][key])]


def _places(keypoints: list[float]) -> list[float]:
    """COCO's joints are indices of pixels; the centre of a pixel is half a pixel further."""
    shift = (PIXEL, PIXEL, 0.0)
    return [value + shift[place % 3] for place, value in enumerate(keypoints)]


def _area(row: Annotation) -> float:
    """Of the object; distances are measured by it, so less than a pixel is none."""
    return row.area if row.area and row.area >= 1 else row.bbox[2] * row.bbox[3]


def _partner(name: str) -> str:
    """The joint's name in a mirror image."""
    for side, other in SIDES.items():
        if name.startswith(side):
            return other + name.removeprefix(side)
    return name


def _is_sided(name: str) -> bool:
    """Whether a name speaks of left or right in a way that is not ours, as `l_knee`, `kneeLeft`."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)
    return any(word.lower() in ("l", "r", "left", "right") for word in words)


def _without_side(name: str) -> str:
    for side in SIDES:
        name = name.removeprefix(side)
    return name
