"""Images per second through decode, affine, colour and masks, beside torchvision v2.

python tests/bench/loading.py
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from results import REAL, table, write
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms import v2

from unified.data.augment import AugmentConfig
from unified.data.coco import CocoSplit
from unified.data.dataset import CocoDataset
from unified.data.maps import read_labels
from unified.data.truth import instances_document

SIZE, REPEATS = 640, 3
ALL_KINDS = {"instances": 2, "stuff": 4, "panoptic": 4}
AFFINE = AugmentConfig(scale=0.5, translate=0.1, flip=0.5, hue=0.015, saturation=0.7, value=0.4)
MOSAIC = AugmentConfig(**{**vars(AFFINE), "mosaic": 1.0})


def per_second(one: Callable[[int], object], count: int) -> float:
    """Best of three passes over the split, after one for the file cache."""
    rates = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        for index in range(count):
            one(index)
        rates.append(count / (time.perf_counter() - began))
    return max(rates[1:])


def torchvision_sample(split: CocoSplit, coco: COCO) -> Callable[[int], object]:
    """The same work as torchvision's reference: full-resolution masks through every transform."""
    transform = v2.Compose(
        [
            v2.RandomAffine(0, translate=(0.1, 0.1), scale=(0.5, 1.5)),
            v2.RandomHorizontalFlip(0.5),
            v2.ColorJitter(0.4, saturation=0.7, hue=0.015),
            v2.Resize((SIZE, SIZE), antialias=True),
            v2.SanitizeBoundingBoxes(),
        ]
    )

    def sample(index: int) -> object:
        image = decode_image(read_file(str(split.image_file(index))), ImageReadMode.RGB)
        rows = [a for a in coco.imgToAnns[int(split.ids[index])] if not a["iscrowd"]]
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
        return transform(tv_tensors.Image(image), target)

    return sample


def write_all_labels(root: Path) -> None:
    """The two real panoptic images with every label that COCO has for them, in files of its own.

    The sample has panoptic labels only: polygons and stuff maps are made from these.
    """
    source = REAL / "coco-panoptic-sample"
    shutil.copytree(source, root)
    split = CocoSplit(source, "val2017", derive=True)
    annotations = root / "annotations"
    document = instances_document(split, masks=True)
    for row in document["annotations"]:
        mask = coco_mask.decode(row["segmentation"])
        rings, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        row["segmentation"] = [ring.astype(float).ravel().tolist() for ring in rings]
    images = [
        row | {"file_name": split.image_file(index).name}
        for index, row in enumerate(document["images"])
    ]
    (annotations / "instances_val2017.json").write_text(json.dumps(document | {"images": images}))
    labels = split.labels["stuff"]
    stuff = {
        "images": images,
        "annotations": [
            {"id": row["id"], "image_id": row["id"], "category_id": labels.ids[0], "bbox": [0] * 4}
            for row in images
        ],
        "categories": [
            {"id": i, "name": n, "isthing": 0}
            for i, n in zip(labels.ids, labels.names, strict=True)
        ],
    }
    (annotations / "stuff_val2017.json").write_text(json.dumps(stuff))
    maps = annotations / "stuff_val2017_pixelmaps"
    maps.mkdir()
    ids = np.zeros(256, np.uint8)
    ids[: len(labels)] = labels.ids
    for index in range(len(split)):
        file = maps / split.image_file(index).with_suffix(".png").name
        cv2.imwrite(str(file), ids[split.class_map("stuff", index)])


def main() -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    split = CocoSplit(REAL / "coco-mini", "train2017")
    coco = COCO(str(split.instances_file))
    cases: dict[str, Callable[[int], object]] = {
        "torchvision v2: affine, flip, colour, masks": torchvision_sample(split, coco)
    }
    for name, augment, stride in (
        ("unified: affine, flip, HSV, no masks", AFFINE, 0),
        ("unified: affine, flip, HSV, masks at 160 px", AFFINE, 4),
        ("unified: affine, flip, HSV, masks at 640 px", AFFINE, 1),
        ("unified: mosaic of four, HSV, masks at 160 px", MOSAIC, 4),
        ("unified: letterbox (validation), masks at 160 px", None, 4),
    ):
        dataset = CocoDataset(split, SIZE, augment, map_strides={"instances": stride})
        cases[name] = lambda index, dataset=dataset: dataset[(0, index)]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "all"
        write_all_labels(root)
        every, only = CocoSplit(root, "val2017"), REAL / "coco-panoptic-sample"
        derived = CocoSplit(only, "val2017", derive=True)
        for name, source, kinds in (
            ("the two panoptic images: no pixel labels", every, {}),
            ("the same: masks, stuff and panoptic maps", every, ALL_KINDS),
            ("the same, masks and stuff derived from panoptic", derived, ALL_KINDS),
        ):
            dataset = CocoDataset(source, SIZE, AFFINE, map_strides=kinds)
            cases[name] = lambda index, dataset=dataset: forgetful(dataset, index)
        rows = measure(cases, len(split))
    write(
        "loading",
        "Data loading at 640 px",
        "python tests/bench/loading.py",
        [
            "One process, one thread, the 80 training images of `coco-mini`, all labels moved with "
            "the image. A mosaic reads four files for each image it delivers. The last rows are the "
            "two images of `coco-panoptic-sample`, over and over, with masks at 320 px and class maps at 160 px: they "
            "are the largest part of COCO's label files.",
            table(["work", "images/s per core", "ratio"], rows),
        ],
    )


def forgetful(dataset: CocoDataset, index: int) -> object:
    """A sample whose label files were not read just before, as in a real data set."""
    read_labels.cache_clear()
    return dataset[(index, index % 2)]


def measure(cases: dict[str, Callable[[int], object]], count: int) -> list[list[str]]:
    rows: list[list[str]] = []
    base = 0.0
    for name, one in cases.items():
        rate = per_second(one, count)
        base = base or rate
        rows.append([name, f"{rate:.0f}", f"{rate / base:.1f}×"])
        print(rows[-1])
    return rows


if __name__ == "__main__":
    main()
