"""Write the generated data set as a folder in COCO's layout, all annotation kinds at once."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.progress import track

from unified.arrays import Array
from unified.data.shapes.captions import describe
from unified.data.shapes.config import STAMP, ShapesConfig
from unified.data.shapes.outline import trace
from unified.data.shapes.scene import THINGS_PER_IMAGE, Scene, draw_scene
from unified.data.shapes.world import (
    FIRST_STUFF_ID,
    JOINTS,
    OTHER_ID,
    PATTERNS,
    SHAPES,
    SKELETON,
    STUFF,
    draw_population,
    fine_categories,
    fine_probabilities,
    shape_id,
)
from unified.errors import ConfigError
from unified.files import cannot_write, locked, made
from unified.rle import encode

log = logging.getLogger(__name__)
VERSION = 11
Row = dict[str, Any]


def generate(root: Path, config: ShapesConfig) -> bool:
    """Write the data set unless it is there already.

    It is written beside its place and moved there when complete; whoever wants the same data at
    the same time waits. What an interrupted run left is removed.

    Returns:
        Whether anything was written.

    Raises:
        ConfigError: `root` holds something else.
    """
    root = Path(os.path.realpath(root))  # a link to an empty folder stays
    stamp = {"version": VERSION, **asdict(config)}
    if _is_there(root, stamp):
        return False
    made(root.parent)
    with locked(root.parent / f".{root.name}.lock", wait=True):
        if _is_there(root, stamp):
            return False  # another process wrote it while this one waited
        partial = root.parent / f".{root.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)  # of one that was killed
        splits = ("train", config.train), ("val", config.val), ("test", config.test)
        counts = {split: count for split, count in splits if count}
        log.info("generating %d images in %s", sum(counts.values()), root)
        try:
            made(partial)
            frequency: list[str] = []
            for index, (split, count) in enumerate(counts.items()):
                frequency = _write_split(partial, split, index, count, config, frequency)
            (partial / STAMP).write_text(json.dumps(stamp))
            if root.exists():
                root.rmdir()
            partial.rename(root)
        except OSError as error:
            raise cannot_write(root, error) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return True


def _is_there(root: Path, stamp: dict[str, Any]) -> bool:
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    with suppress(OSError, ValueError, TypeError):  # what is damaged is not that data set
        there = json.loads((root / STAMP).read_text())
        # A third split leaves the others as they are, and is asked for where it is read.
        third = {there.get("test", 0), stamp["test"]} - {0}
        if len(third) < 2 and there | {"test": 0} == stamp | {"test": 0}:
            return True
    raise ConfigError(
        f"{root} exists and is not the shapes data set asked for ({stamp})",
        "set data.root to another folder, or delete that one",
    )


def _write_split(
    root: Path, split: str, index: int, count: int, config: ShapesConfig, frequency: list[str]
) -> list[str]:
    """Write images and annotations of one split; returns the fine categories' frequencies."""
    annotations = root / "annotations"
    panoptic, stuff = annotations / f"panoptic_{split}", annotations / f"stuff_{split}_pixelmaps"
    for folder in (root / split, panoptic, stuff):
        folder.mkdir(parents=True)
    appearances = fine_probabilities() * count * THINGS_PER_IMAGE
    sizes = np.rint(appearances / config.recurrence).astype(int).clip(1)
    population = draw_population(
        np.random.default_rng((config.seed, index)), 1 + index * 1_000_000, sizes
    )
    odds = np.repeat(fine_probabilities() / sizes, sizes)
    writer = SplitWriter(first_id=1 + index * 1_000_000)
    watched = sys.stderr.isatty()
    for number in track(range(count), f"generating {split}", transient=True, disable=not watched):
        rng = np.random.default_rng((config.seed, index, number))
        scene = draw_scene(rng, population, odds, config.size)
        name = f"{split}_{number:06d}"
        rgb = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
        _save(root / split / f"{name}.jpg", rgb, cv2.IMWRITE_JPEG_QUALITY, 92)
        row = {"id": index * 1_000_000 + number + 1, "file_name": f"{name}.jpg"}
        row |= {"height": config.size, "width": config.size}
        segments, pixels = writer.add(row, scene, describe(scene, rng), rng)
        _save(panoptic / f"{name}.png", _as_bgr(segments))
        _save(stuff / f"{name}.png", pixels)
    frequency = frequency or writer.frequency()
    for kind, document in writer.documents(frequency).items():
        (annotations / f"{kind}_{split}.json").write_text(json.dumps(document))
    return frequency


def _save(file: Path, pixels: Array, *options: int) -> None:
    """Encode, then write: a disk that is full is an error, which `cv2.imwrite` only returns."""
    _, encoded = cv2.imencode(file.suffix, pixels, options)
    file.write_bytes(encoded.tobytes())


def _as_bgr(segments: Array) -> Array:
    """Segment ids to the colours of COCO's panoptic PNG, R + 256 G + 65536 B, in BGR order."""
    return np.stack([segments >> 16, segments >> 8 & 255, segments & 255], -1).astype(np.uint8)


def _box(mask: Array) -> list[int]:
    """x, y, width, height of the tight box."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]


class SplitWriter:
    """Turns scenes into the annotation documents of a split."""

    def __init__(self, first_id: int) -> None:
        self.next_id = first_id
        self.images: list[Row] = []
        self.lvis_images: list[Row] = []
        self.instances: list[Row] = []
        self.keypoints: list[Row] = []
        self.captions: list[Row] = []
        self.stuff: list[Row] = []
        self.panoptic: list[Row] = []
        self.lvis: list[Row] = []

    def _take_id(self) -> int:
        self.next_id += 1
        return self.next_id - 1

    def add(
        self, image: Row, scene: Scene, captions: Sequence[str], rng: np.random.Generator
    ) -> tuple[Array, Array]:
        """Annotate one scene; returns the panoptic segment ids and the stuff pixel map."""
        self.images.append(image)
        segments = np.zeros(scene.owner.shape, np.int64)
        pixels = np.where(
            scene.owner >= 0, OTHER_ID, scene.ground.astype(np.int64) + FIRST_STUFF_ID
        )
        info: list[Row] = []
        for index in range(len(scene.things)):
            mask = scene.owner == index
            segments[mask] = index + 1
            row = self._add_thing(image["id"], scene, index, mask)
            info.append(
                {"id": index + 1} | {k: row[k] for k in ("category_id", "bbox", "area", "iscrowd")}
            )
        for value in np.unique(pixels):
            mask = pixels == value
            base = {
                "category_id": int(value),
                "bbox": _box(mask),
                "area": int(mask.sum()),
                "iscrowd": 0,
            }
            self.stuff.append(
                {"id": self._take_id(), "image_id": image["id"], "segmentation": encode(mask)}
                | base
            )
            if value != OTHER_ID:
                segments[mask] = 1000 + value
                info.append({"id": int(1000 + value)} | base)
        for caption in captions:
            self.captions.append(
                {"id": self._take_id(), "image_id": image["id"], "caption": caption}
            )
        self.panoptic.append(
            {
                "image_id": image["id"],
                "file_name": str(Path(image["file_name"]).with_suffix(".png")),
                "segments_info": info,
            }
        )
        self._add_federated_lists(image, scene, rng)
        return segments, pixels.astype(np.uint8)

    def _add_thing(self, image_id: int, scene: Scene, index: int, mask: Array) -> Row:
        thing = scene.things[index]
        who = thing.individual
        row: Row = {
            "id": self._take_id(),
            "image_id": image_id,
            "category_id": shape_id(who.shape),
            "bbox": _box(mask),
            "area": int(mask.sum()),
            "iscrowd": int(thing.crowd),
        }
        rings, holes = ([], True) if thing.crowd else trace(mask)
        row["segmentation"] = encode(mask) if holes else rings
        if not thing.crowd:
            row["track_id"] = who.track_id
            self.lvis.append(
                {k: row[k] for k in ("id", "image_id", "bbox", "area", "segmentation")}
                | {"category_id": who.fine + 1}
            )
        self.instances.append(row)
        if thing.joints is not None:
            self.keypoints.append(row | _joint_fields(thing.joints, scene.owner == index))
        return row

    def _add_federated_lists(self, image: Row, scene: Scene, rng: np.random.Generator) -> None:
        """LVIS: some categories are checked to be absent, crowded ones are not exhausted."""
        alone = {t.individual.fine + 1 for t in scene.things if not t.crowd}
        crowded = {t.individual.fine + 1 for t in scene.things if t.crowd}
        absent = sorted(set(range(1, len(fine_categories()) + 1)) - alone - crowded)
        checked = rng.choice(absent, min(12, len(absent)), replace=False)
        self.lvis_images.append(
            image
            | {
                "neg_category_ids": sorted(int(c) for c in checked),
                "not_exhaustive_category_ids": sorted(crowded),
            }
        )

    def frequency(self) -> list[str]:
        """LVIS's classes by number of images: r up to 10, c up to 100, f above."""
        counts = self._images_per_fine()
        return ["r" if n <= 10 else "c" if n <= 100 else "f" for n in counts]

    def _images_per_fine(self) -> list[int]:
        seen = {(row["category_id"], row["image_id"]) for row in self.lvis}
        counts = np.bincount([c for c, _ in seen], minlength=len(fine_categories()) + 1)
        return [int(n) for n in counts[1:]]

    def documents(self, frequency: Sequence[str]) -> dict[str, Row]:
        """Annotation kind → json document."""
        things = [
            {"id": shape_id(i), "name": n, "supercategory": "thing"} for i, n in enumerate(SHAPES)
        ]
        ground = [
            {"id": FIRST_STUFF_ID + i, "name": n, "supercategory": "ground"}
            for i, n in enumerate(STUFF)
        ]
        other = {"id": OTHER_ID, "name": "other", "supercategory": "other"}
        figure = things[SHAPES.index("figure")] | {
            "keypoints": list(JOINTS),
            "skeleton": [[a + 1, b + 1] for a, b in SKELETON],
        }
        panoptic = [c | {"isthing": 1} for c in things] + [c | {"isthing": 0} for c in ground]
        per_kind: dict[str, tuple[list[Row], list[Row], list[Row] | None]] = {
            "instances": (self.images, self.instances, things),
            "person_keypoints": (self.images, self.keypoints, [figure]),
            "captions": (self.images, self.captions, None),
            "panoptic": (self.images, self.panoptic, panoptic),
            "stuff": (self.images, self.stuff, [c | {"isthing": 0} for c in [*ground, other]]),
            "lvis": (self.lvis_images, self.lvis, self._lvis_categories(frequency)),
        }
        return {
            kind: {"info": {"description": "shapes, generated"}, "images": images}
            | {"annotations": rows}
            | ({} if categories is None else {"categories": categories})
            for kind, (images, rows, categories) in per_kind.items()
        }

    def _lvis_categories(self, frequency: Sequence[str]) -> list[Row]:
        images = self._images_per_fine()
        totals = np.bincount(
            [row["category_id"] for row in self.lvis], minlength=len(fine_categories()) + 1
        )[1:]
        return [
            {
                "id": i + 1,
                "name": f"{PATTERNS[pattern]} {SHAPES[shape]}",
                "synset": f"{SHAPES[shape]}.{PATTERNS[pattern]}.01",
                "synonyms": [f"{PATTERNS[pattern]} {SHAPES[shape]}"],
                "def": f"a {SHAPES[shape]} with a {PATTERNS[pattern]} surface",
                "frequency": frequency[i],
                "image_count": images[i],
                "instance_count": int(totals[i]),
            }
            for i, (shape, pattern) in enumerate(fine_categories())
        ]


def _joint_fields(joints: Array, own: Array) -> Row:
    """COCO's keypoints: 2 seen, 1 hidden by something in front, 0 outside of the image."""
    size = own.shape[0]
    flat: list[float] = []
    for x, y in joints:
        if not (0 <= x < size and 0 <= y < size):
            flat += [0, 0, 0]
        else:
            # COCO's joints are indices of pixels: a pixel's centre is a whole number.
            seen = 2 if own[int(y), int(x)] else 1
            flat += [round(float(x) - 0.5, 2), round(float(y) - 0.5, 2), seen]
    return {"keypoints": flat, "num_keypoints": sum(v > 0 for v in flat[2::3])}
