"""One annotation file of COCO: typed, entry by entry.

The json of COCO's 118,000 training images holds millions of small objects. The file stays mapped
from disk, its lists are cut into raw entries, and one entry at a time becomes objects.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path, PurePath, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import numpy as np

from unified.arrays import Ragged
from unified.errors import DataError
from unified.kinds.kind import Images

Entry = TypeVar("Entry", bound=msgspec.Struct)
Id = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""Evaluators hold ids as floating point numbers, and take no negative ones."""
Flag = Literal[0, 1] | bool
IMAGE = "each image needs id, file_name, height and width"
CATEGORY = "each category needs id and name"


class Image(msgspec.Struct):
    """An entry of `images`; LVIS names its images by URL only."""

    id: Id
    height: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    width: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    file_name: str | None = None
    coco_url: str | None = None

    def __post_init__(self) -> None:
        if not (self.file_name or self.coco_url):
            raise ValueError("Object missing required field `file_name`")
        check_name(self.file_name or "")

    def name(self, folder: str) -> str:
        """Of the file, relative to the root of the data.

        Args:
            folder: that the images of the list lie in.
        """
        return f"{folder}/{self.file_name or PurePosixPath(str(self.coco_url)).name}"


def check_name(name: str) -> None:
    """Refuse names that lead out of the folder they belong to."""
    if name and not PurePath(name).name:
        raise ValueError(f"Expected the name of a file, got `{name}` - at `$.file_name`")
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts or "\0" in name:
        raise ValueError(f"Expected a name inside of the folder, got `{name}` - at `$.file_name`")


class Category(msgspec.Struct):
    """An entry of `categories`."""

    id: Id
    name: str


class _Lists(msgspec.Struct):
    images: list[msgspec.Raw] | None = None
    annotations: list[msgspec.Raw] | None = None
    categories: list[msgspec.Raw] | None = None


class Document:
    """The lists of one annotation file.

    Args:
        path: the json.
        lists: which it must have.

    Raises:
        DataError: it is missing, no json, or not COCO.
    """

    def __init__(
        self, path: Path, lists: Sequence[str] = ("images", "annotations", "categories")
    ) -> None:
        self.path = path
        self._lists = _read(path)
        missing = [name for name in lists if getattr(self._lists, name) is None]
        if self._lists.images == []:
            missing = missing or ["images (the list is empty)"]
        if missing:
            raise DataError(
                f"{path} is not COCO: it lacks {', '.join(missing)}",
                "a COCO json has images, annotations and categories",
            )

    def entries(self, name: str, entry: type[Entry], fix: str) -> Iterator[Entry]:
        """Typed entries of a list, in the file's order.

        Args:
            name: of the list.
            entry: their type; fields that it does not name are passed over.
            fix: what an entry needs, for the error.

        Raises:
            DataError: names the file, the entry and its field.
        """
        decoder = msgspec.json.Decoder(entry)
        for index, raw in enumerate(getattr(self._lists, name) or ()):
            try:
                yield decoder.decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                subject = f"{name}[{index}]{_identify(raw)}"
                raise DataError(f"{self.path}: {subject}: {_plain(error)}", fix) from error

    def refuse(self, subject: str, problem: str, fix: str) -> DataError:
        """An error about this file, to be raised."""
        return DataError(f"{self.path}: {subject}: {problem}", fix)

    def images(self, folder: str, entry: type[Image] = Image, fix: str = IMAGE) -> Images:
        """The images that the file lists, by rising id.

        Args:
            folder: that they lie in, within the root of the data.
            entry: their type.
            fix: what an entry needs, for the error.
        """
        rows = sorted(self.entries("images", entry, fix), key=lambda row: row.id)
        self._refuse_repeated("images", [row.id for row in rows])
        return Images(
            ids=np.array([row.id for row in rows], np.int64),
            heights=np.array([row.height for row in rows], np.int64),
            widths=np.array([row.width for row in rows], np.int64),
            names=Ragged.of_texts(row.name(folder) for row in rows),
        )

    def categories(self, entry: type[Entry], fix: str = CATEGORY) -> list[Entry]:
        """The categories, by rising id."""
        rows: list[Any] = sorted(self.entries("categories", entry, fix), key=lambda row: row.id)
        self._refuse_repeated("categories", [row.id for row in rows])
        return rows

    def _refuse_repeated(self, name: str, ids: Sequence[int]) -> None:
        """Of rising ids, refuse one that stands twice: what is it that it names?"""
        for one, following in pairwise(ids):
            if one == following:
                raise self.refuse(name, f"id {one} stands twice", "give each an id of its own")


def _read(path: Path) -> _Lists:
    if not path.is_file():
        problem = "is no file" if path.exists() else "does not exist"
        raise DataError(f"{path} {problem}", "check the folder and the names of its splits")
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise DataError(f"{path} is empty", "copy or download it again")
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        return msgspec.json.decode(data, type=_Lists)
    except msgspec.ValidationError as error:
        raise DataError(
            f"{path} is not COCO: {_plain(error)}",
            "export the annotations in COCO format: one object with lists of images, "
            "annotations and categories",
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(
            f"{path} is not valid json: {_plain(error)}{_near(data, str(error))}",
            "the file may be cut short, or hold NaN, which json does not know; copy or download "
            "it again",
        ) from error


def _plain(error: Exception) -> str:
    return str(error).replace(" - at `$.", " at `").replace(" - at `$", " at `")


def _near(data: memoryview, message: str) -> str:
    """The text around the byte that a message names."""
    found = re.search(r"byte (\d+)", message)
    if not found:
        return ""
    place = int(found[1])
    return f", near {bytes(data[max(0, place - 60) : place + 20]).decode(errors='replace')!r}"


def _identify(raw: msgspec.Raw) -> str:
    """The id of an entry that could not be read, where it has one."""
    try:
        value = json.loads(bytes(raw))
    except (ValueError, RecursionError):
        return ""
    return f" (id {value['id']!r})" if isinstance(value, dict) and "id" in value else ""
