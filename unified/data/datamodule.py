"""Splits, label spaces and loaders for Lightning."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader

from unified.data.augment import AugmentConfig
from unified.data.coco import CocoSplit
from unified.data.dataset import CocoDataset, EpochSampler, collate
from unified.data.images import check_image_files
from unified.data.shapes import ShapesConfig, generate
from unified.errors import ConfigError, DataError
from unified.protocols import Task
from unified.specs import Array, DataSpec, LabelSpace

log = logging.getLogger(__name__)


@dataclass
class DataConfig:
    """Where the data is and how it is loaded.

    Attributes:
        root: folder in COCO's layout.
        train, val: names of the splits.
        image_size: side of the square network input in pixels, a multiple of 32.
        batch_size: network inputs per step and process, all views counted.
        workers: loading processes; 0 loads in the main process.
        views: augmented views per image.
        check: look at every image file before training starts.
        derive: make instance and stuff labels from panoptic ones where a split lacks them.
        shapes: generate the embedded data set into `root`; null for real data.
    """

    root: str
    train: str
    val: str
    image_size: int
    batch_size: int
    workers: int
    views: int = 1
    check: bool = True
    derive: bool = False
    shapes: ShapesConfig | None = None

    def __post_init__(self) -> None:
        if isinstance(self.image_size, int) and (self.image_size < 32 or self.image_size % 32):
            raise ConfigError(
                f"data.image_size={self.image_size} is not a multiple of 32",
                f"use {max(32, round(self.image_size / 32) * 32)}",
            )
        if self.views < 1 or self.batch_size < 1 or self.batch_size % self.views:
            raise ConfigError(
                f"data.batch_size={self.batch_size} does not hold whole images of "
                f"data.views={self.views} views",
                "make batch_size a multiple of views",
            )


class DataModule(pl.LightningDataModule):
    """Reads splits on first use and deals out batches.

    Args:
        config: where and how.
        augment: training augmentation.
        seed: start of all randomness in the data.
        labels: label spaces of an existing model, which the data must match.
    """

    def __init__(
        self,
        config: DataConfig,
        augment: AugmentConfig,
        seed: int,
        labels: Mapping[str, LabelSpace] | None = None,
    ) -> None:
        super().__init__()
        self.config, self.augment, self.seed, self.labels = config, augment, seed, labels
        self.map_strides: dict[str, int] = {}

    def serve(self, tasks: Iterable[Task]) -> None:
        """Draw the masks and class maps that these tasks learn from, at their strides."""
        for task in tasks:
            self.map_strides |= getattr(task, "maps", {})

    def check_labels(self, *splits: CocoSplit) -> None:
        """Look at the label files that the served tasks will read.

        Raises:
            DataError: one is missing or cut short, or masks are asked for and there are none.
        """
        for split in splits:
            if "instances" in self.map_strides and not split.has_masks():
                raise DataError(
                    f"{split.instances_file} has boxes and no masks",
                    "add segmentations to its annotations, or leave out the tasks that learn "
                    "from masks: task=[…]",
                )
            if self.config.check:
                check_image_files(split.label_files(self.map_strides))

    def prepare_data(self) -> None:
        """Generate the embedded data set where it is asked for."""
        if self.config.shapes is not None and generate(Path(self.config.root), self.config.shapes):
            log.info("generated shapes in %s", self.config.root)

    @cached_property
    def train_split(self) -> CocoSplit:
        split = CocoSplit(
            self.config.root, self.config.train, self.labels, derive=self.config.derive
        )
        _warn_of_absent_categories(split)
        if self.config.check:
            check_image_files([split.image_file(i) for i in range(len(split))])
        return split

    @cached_property
    def val_split(self) -> CocoSplit:
        labels = self.labels or self.train_split.labels
        split = CocoSplit(self.config.root, self.config.val, labels, derive=self.config.derive)
        if self.config.check:
            check_image_files([split.image_file(i) for i in range(len(split))])
        return split

    def spec(self) -> DataSpec:
        """What tasks complete themselves with."""
        return DataSpec(
            labels=self.train_split.labels,
            image_size=self.config.image_size,
            box_sizes=_box_sizes(self.train_split, self.config.image_size),
        )

    def train_dataset(self) -> CocoDataset:
        """Augmented samples."""
        c = self.config
        return CocoDataset(
            self.train_split,
            c.image_size,
            self.augment,
            c.views,
            self.seed,
            map_strides=self.map_strides,
        )

    def val_dataset(self) -> CocoDataset:
        """Letterboxed samples; further views are drawn without mosaic."""
        c = self.config
        plain = AugmentConfig(**{**vars(self.augment), "mosaic": 0.0})
        return CocoDataset(
            self.val_split, c.image_size, None, c.views, self.seed, view_augment=plain
        )

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.train_dataset(), shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.val_dataset(), shuffle=False)

    def _loader(self, dataset: CocoDataset, shuffle: bool) -> DataLoader[Any]:
        rank, world = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        images = self.config.batch_size // self.config.views
        sampler = EpochSampler(len(dataset), shuffle, self.seed, rank, world)
        if shuffle and len(sampler) < images:
            raise DataError(
                f"split {self.config.train!r} has {len(dataset)} images for {world} process(es), "
                f"fewer than one batch of {images}",
                f"set data.batch_size={len(sampler) * self.config.views} or less",
            )
        return DataLoader(
            dataset,
            batch_size=images,
            sampler=sampler,
            num_workers=self.config.workers,
            collate_fn=collate,
            drop_last=shuffle,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.config.workers > 0,
            worker_init_fn=_one_thread,
        )


def _one_thread(worker: int) -> None:
    """Workers are the parallelism; threads inside of them would only contend."""
    torch.set_num_threads(1)


def _box_sizes(split: CocoSplit, size: int) -> Array | None:
    """(N, 2) widths and heights of the countable boxes in input pixels."""
    table = split.tables.get("instances")
    if table is None:
        return None
    scale = size / np.maximum(split.heights, split.widths)
    per_row = np.repeat(scale, np.diff(table.first))
    sides = (table.boxes[:, 2:] - table.boxes[:, :2]) * per_row[:, None]
    return sides[~table.crowd]


def _warn_of_absent_categories(split: CocoSplit) -> None:
    table = split.tables.get("instances")
    if table is None:
        return
    space = split.labels["instances"]
    if not len(space):
        return  # derived from panoptic labels that have no things
    counts = np.bincount(table.labels[~table.crowd], minlength=len(space))
    absent = [space.names[i] for i in np.flatnonzero(counts == 0)]
    if len(absent) == len(space):
        raise DataError(
            f"{split.instances_file} annotates no object", "choose a split with annotations"
        )
    if absent:
        shown = ", ".join(absent[:5]) + (", …" if len(absent) > 5 else "")
        log.warning(
            "%d of %d categories have no annotated image in split %r and cannot be learnt: %s\n"
            "  fix: add images of them, or drop them from categories in %s",
            len(absent), len(space), split.split, shown, split.instances_file,
        )  # fmt: skip
