"""Images per second through decode, affine, colour and labels; bytes and time of a worker's pipe.

python tests/bench/loading.py
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from results import REAL, split_of, table, write
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms import v2

from unified.arrays import IGNORE
from unified.batch import Batch
from unified.data.augment import AugmentConfig
from unified.data.coco.png import read_colours
from unified.data.dataset import Row, ViewDataset
from unified.data.split import Split
from unified.kinds.kind import Ask
from unified.kinds.masks import MaskAsk
from unified.kinds.objects import ObjectAsk
from unified.kinds.pixels import PixelAsk
from unified.kinds.segments import SegmentAsk

SIZE, BATCH, ROUNDS, PIPED = 640, 16, 5, 24
AFFINE = AugmentConfig(scale=0.5, translate=0.1, flip=0.5, hue=0.015, saturation=0.7, value=0.4)
MOSAIC = AugmentConfig(**{**vars(AFFINE), "mosaic": 1.0})
BOXES = (ObjectAsk(),)
EVERY = (ObjectAsk(), MaskAsk(stride=2), PixelAsk(stride=4), SegmentAsk(stride=4))


def loader(split: Split, asks: Sequence[Ask], augment: AugmentConfig | None) -> Callable[[], int]:
    """Work that makes batches of the whole split, as a loading process does, without the pipe."""
    data = ViewDataset(split, SIZE, asks, {"strong": augment})

    def work() -> int:
        count = 0
        for begin in range(0, len(split) - BATCH + 1, BATCH):
            rows = []
            for index in range(begin, begin + BATCH):
                read_colours.cache_clear()  # in a real data set it was not read just before
                rows.append(data[(0, index)])
            count += len(data.collate(rows).metas)
        return count

    return work


def torchvision_work(split: Split) -> Callable[[], int]:
    """The same as torchvision's reference: full-resolution masks through every transform."""
    coco = COCO(str(split.sources["objects"].file))
    transform = v2.Compose(
        [
            v2.RandomAffine(0, translate=(0.1, 0.1), scale=(0.5, 1.5)),
            v2.RandomHorizontalFlip(0.5),
            v2.ColorJitter(0.4, saturation=0.7, hue=0.015),
            v2.Resize((SIZE, SIZE), antialias=True),
            v2.SanitizeBoundingBoxes(),
        ]
    )

    def sample(index: int) -> None:
        image = decode_image(read_file(str(split.image_file(index))), ImageReadMode.RGB)
        rows = [a for a in coco.imgToAnns[int(split.images.ids[index])] if not a["iscrowd"]]
        size = tuple(image.shape[1:])
        masks = (
            np.stack([coco.annToMask(a) for a in rows]) if rows else np.zeros((0, *size), np.uint8)
        )
        boxes = torch.tensor([a["bbox"] for a in rows], dtype=torch.float32).view(-1, 4)
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYWH", canvas_size=size),
            "labels": torch.tensor([a["category_id"] for a in rows]),
            "masks": tv_tensors.Mask(torch.from_numpy(masks)),
        }
        transform(tv_tensors.Image(image), target)

    def work() -> int:
        for index in range(len(split)):
            sample(index)
        return len(split)

    return work


def write_all_labels(root: Path) -> None:
    """coco128's training images with every label that COCO has for its own, in files of their own.

    The set has panoptic labels only: polygons and stuff maps, with a palette as COCO's have it,
    are made from these.
    """
    source = REAL / "coco128"
    for folder in ("train2017", "annotations/panoptic_train2017"):
        shutil.copytree(source / folder, root / folder)
    annotations = root / "annotations"
    shutil.copy(source / "annotations" / "panoptic_train2017.json", annotations)
    split = split_of(source, "train2017", "objects", "masks", "pixels", derive=True)
    document = split.sources["masks"].truth()
    for row in document["annotations"]:
        rings, _ = cv2.findContours(
            coco_mask.decode(row["segmentation"]), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
        )
        row["segmentation"] = [ring.astype(float).ravel().tolist() for ring in rings]
    images = [
        row | {"file_name": split.image_file(index).name}
        for index, row in enumerate(document["images"])
    ]
    (annotations / "instances_train2017.json").write_text(json.dumps(document | {"images": images}))
    space = split.sources["pixels"].space
    categories = [{"id": i, "name": n} for i, n in zip(space.ids, space.names, strict=True)]
    stuff = {"images": images, "annotations": [], "categories": categories}
    (annotations / "stuff_train2017.json").write_text(json.dumps(stuff))
    maps = annotations / "stuff_train2017_pixelmaps"
    maps.mkdir()
    ids = np.zeros(IGNORE + 1, np.uint8)
    ids[: len(space)] = space.ids
    for index in range(len(split)):
        pixels = Image.fromarray(ids[split.result("pixels", index).classes.numpy()])
        pixels.putpalette([7 * i % 256 for i in range(768)])
        pixels.save(maps / split.image_file(index).with_suffix(".png").name)


def rates(cases: dict[str, Callable[[], int]]) -> list[list[str]]:
    """Images per second: medians of rounds in which the cases take turns, after one to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(ROUNDS + 1):
        for name, work in cases.items():
            began = time.perf_counter()
            count = work()
            if turn:
                seconds[name].append((time.perf_counter() - began) / count)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    base = median[next(iter(cases))]
    return [[name, f"{1 / s:.0f}", f"{base / s:.1f}×"] for name, s in median.items()]


# --- The pipe of a worker -----------------------------------------------------------------


@dataclass
class Twice(Batch):
    """A batch as it was before: its samples with images and labels once more beside the tensors."""

    samples: list[Row] = field(default_factory=list)


class Ready(Dataset[Batch]):
    """Gives the same batch over and over: only the way to the parent takes time."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return PIPED

    def __getitem__(self, index: int) -> Batch:
        return self.batch


def piped(batch: Batch) -> tuple[float, float]:
    """MiB that are pickled, and milliseconds until the parent has a batch from a worker."""
    loader: Any = DataLoader(Ready(batch), batch_size=None, num_workers=1, prefetch_factor=2)
    times = []
    began = time.perf_counter()
    for _ in loader:
        times.append(time.perf_counter() - began)
        began = time.perf_counter()
    return len(ForkingPickler.dumps(batch)) / 2**20, 1000 * statistics.median(times[4:])


def pipe_rows(split: Split) -> list[list[str]]:
    data = ViewDataset(split, SIZE, EVERY, {"strong": AFFINE})
    groups = [data[(0, index)] for index in range(BATCH)]
    batch = data.collate(groups)
    shared: list[int] = []
    batch.map(lambda tensor: shared.append(tensor.nbytes) or tensor)
    for row in (row for group in groups for row in group):
        # Masks stood in samples as they stand in a batch, at the resolution of their cells.
        masks = row.labels["masks"]
        whole = np.zeros((len(masks), masks.side, masks.side), np.uint8)
        masks.draw_onto(whole)
        row.labels["masks"] = whole
    twice = Twice(batch.images, batch.metas, batch.labels, [row for g in groups for row in g])
    tensors = f"{sum(shared) / 2**20:.1f}"
    rows = []
    for name, one in (("before: samples beside the tensors", twice), ("now: tensors alone", batch)):
        pickled, milliseconds = piped(one)
        rows.append([name, tensors, f"{pickled:.3f}", f"{milliseconds:.0f}"])
    return rows


def main() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "all"
        write_all_labels(root)
        mini = split_of(REAL / "coco-mini", "train2017", "objects", "masks")
        every = split_of(root, "train2017", *(ask.kind for ask in EVERY))
        derived = split_of(REAL / "coco128", "train2017", *(ask.kind for ask in EVERY), derive=True)
        small, large = (ObjectAsk(), MaskAsk(stride=4)), (ObjectAsk(), MaskAsk(stride=1))
        rows = rates(
            {
                "torchvision v2: affine, flip, colour, masks": torchvision_work(mini),
                "unified: affine, flip, colour, boxes": loader(mini, BOXES, AFFINE),
                "unified: affine, flip, colour, masks at 160 px": loader(mini, small, AFFINE),
                "unified: affine, flip, colour, masks at 640 px": loader(mini, large, AFFINE),
                "unified: mosaic of four, colour, masks at 160 px": loader(mini, small, MOSAIC),
                "unified: letterbox (validation), boxes": loader(mini, BOXES, None),
                "coco128: affine, flip, colour, boxes": loader(derived, BOXES, AFFINE),
                "coco128: the same with masks, stuff and segments, each from files of its own": loader(
                    every, EVERY, AFFINE
                ),
                "coco128: the same, all derived from panoptic PNGs": loader(derived, EVERY, AFFINE),
            }
        )
        pipe = pipe_rows(every)
    write(
        "loading",
        "Data loading at 640 px",
        "python tests/bench/loading.py",
        [
            f"One process, one thread, batches of {BATCH}, decoded, transformed and put together; the 80 "
            "training images of `coco-mini`, then the 100 of `coco128`. Masks of `coco128` are at 320 "
            "px, stuff and segments at 160 px; no label file is remembered. A mosaic reads four files "
            "for each image it delivers. Medians of rounds in which the cases take turns.",
            table(["work", "images/s per core", "ratio"], rows),
            f"A batch of {BATCH} with masks, stuff and segments on its way from a worker to the parent. "
            "Tensors travel in shared memory, everything else is pickled. Before, a batch carried its "
            "samples, too, for those who read other labels than its own.",
            table(["batch", "MiB of tensors", "MiB pickled", "ms per batch"], pipe),
        ],
    )


if __name__ == "__main__":
    main()
