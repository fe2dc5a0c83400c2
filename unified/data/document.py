"""One annotation file of COCO, read entry by entry into compact form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unified.data.stream import stream_object
from unified.data.tables import TableBuilder
from unified.errors import DataError


@dataclass
class Document:
    """One annotation file, read."""

    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    builder: TableBuilder
    captions: dict[int, list[str]]
    files: dict[int, str]


def read_document(path: Path, kind: str) -> Document:
    """Read one annotation file, entry by entry.

    Raises:
        DataError: it is broken or not COCO.
    """
    document = Document([], [], TableBuilder(path.name), {}, {})
    sizes: dict[int, tuple[int, int]] = {}
    seen = set()
    for key, value in stream_object(path):
        seen.add(key)
        if key == "images":
            document.images.append(_image_row(value, path))
            sizes[value["id"]] = (value["height"], value["width"])
        elif key == "categories":
            document.categories.append(value)
        elif key == "annotations":
            _add_annotation(kind, value, document, sizes, path)
    needed = {"images", "annotations"} | (set() if kind == "captions" else {"categories"})
    if document.images and not needed - seen:
        return document
    missing = sorted(needed - seen) or ["images (the list is empty)"]
    raise DataError(
        f"{path} is not COCO: it lacks {', '.join(missing)}",
        "a COCO json has images, annotations and categories",
    )


def _image_row(value: Any, path: Path) -> dict[str, Any]:
    try:
        row = {k: value[k] for k in ("id", "height", "width")}
        # LVIS names its images by URL only.
        row["file_name"] = value.get("file_name") or Path(value["coco_url"]).name
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not COCO: an entry of images lacks {error}: {json.dumps(value)[:120]}",
            "each image needs id, file_name, height and width",
        ) from error
    for name in ("neg_category_ids", "not_exhaustive_category_ids"):
        if name in value:
            row[name] = value[name]
    return row


def _add_annotation(
    kind: str,
    value: dict[str, Any],
    document: Document,
    sizes: Mapping[int, tuple[int, int]],
    path: Path,
) -> None:
    if not isinstance(value, dict) or "image_id" not in value:
        raise DataError(
            f"{path} is not COCO: an annotation lacks image_id: {json.dumps(value)[:120]}",
            "export the annotations in COCO format",
        )
    image = value["image_id"]
    if kind == "captions":
        document.captions.setdefault(image, []).append(str(value.get("caption", "")).strip())
    elif kind == "panoptic":
        missing = [key for key in ("file_name", "segments_info") if key not in value]
        if missing:
            raise DataError(
                f"{path} is not COCO: the annotation of image {image} lacks {', '.join(missing)}",
                "panoptic annotations name a PNG and list its segments",
            )
        document.files[image] = value["file_name"]
        for segment in value["segments_info"]:
            if "area" not in segment:
                raise DataError(
                    f"{path}: segment {segment.get('id', '?')} of image {image} has no area",
                    "give every segment its number of pixels",
                )
            document.builder.add(segment, image, None)
    else:
        document.builder.add(value, image, sizes.get(image))
