"""Splits and loaders for Lightning."""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import signal
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any
from weakref import WeakSet

import cv2
import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from unified.batch import Batch
from unified.data.augment import AugmentConfig
from unified.data.config import DataConfig
from unified.data.dataset import Collate, Row, ViewDataset, Views, carried, images_of
from unified.data.images import check_image_files
from unified.data.sampler import EpochSampler, Key
from unified.data.sources import Folders
from unified.data.split import Split
from unified.errors import ConfigError, DataError, JobError, UserError
from unified.files import refuse_links_out
from unified.kinds.kind import Space
from unified.task import Task
from unified.view import PLAIN

log = logging.getLogger(__name__)
WHOLE = {"mosaic": 0.0, "share": 1.0}
"""Of views in validation: every image for itself, and all of them."""


class DataModule(pl.LightningDataModule):
    """What the tasks ask of the data, and nothing else, in batches.

    Args:
        config: where the data is and how it is loaded.
        augment: view name → what to draw.
        tasks: that will learn or be scored.
        spaces: kind → space that the validation labels must not differ from.
        train: sources of the training split; None when there is no training.
        seed: start of all randomness in the data.

    Attributes:
        train_split, val_split: the annotated images; `train_split` is None without training.

    Raises:
        ConfigError: tasks ask for an unknown view.
        DataError: labels are missing or useless, or a file is broken.
    """

    def __init__(
        self,
        config: DataConfig,
        augment: Mapping[str, AugmentConfig],
        tasks: Mapping[str, Task],
        spaces: Mapping[str, Space],
        train: Folders | None,
        seed: int,
    ) -> None:
        super().__init__()
        self.config, self.augment, self.seed = config, dict(augment), seed
        self.asks = [ask for task in tasks.values() for ask in task.asks]
        self.checks = [ask for task in tasks.values() for ask in task.checks]
        self._check_asks()
        self.train_split = None
        if train is not None:
            self.train_split = Split(train, [ask.kind for ask in self.asks])
            self._check(self.train_split, learn=True)
            self._leave_unmirrored(self.train_split)
        truths = [task.truth.kind for task in tasks.values()]
        val = Folders(config, config.val, spaces)
        self.val_split = Split(val, [*truths, *(ask.kind for ask in self.checks)])
        self._check(self.val_split, learn=False)
        self._tell_of_shared()
        self._start = (0, 0)

    def state_dict(self) -> dict[str, int]:
        """Where training goes on: the epoch, and how many of its batches were learnt from.

        Within an epoch, it goes on with batches of the same images only.
        """
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        seen = loop.epoch_loop.batch_progress.current.ready
        whole = seen >= self.trainer.num_training_batches
        epoch = loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        return {"epoch": epoch, "batches": 0 if whole else seen, "images": self._images()}

    def _images(self) -> int:
        """In a step of all processes."""
        images = images_of(self._learnt_views(), self.config.batch_size)
        return images * (self.trainer.world_size if self.trainer else 1)

    def _learnt_views(self) -> Views:
        """Every view that a task learns from."""
        return {ask.view: self.augment.get(ask.view) for ask in self.asks}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Lightning calls it before it asks for loaders, whose workers read ahead."""
        self._start = (int(state["epoch"]), int(state["batches"]))
        images = state.get("images", self._images())
        if self._start[1] and images != self._images():
            raise ConfigError(
                f"the run ended within an epoch of {images} images a step, and would go on with "
                f"{self._images()}",
                "leave data.batch_size, the views and their shares, and trainer.devices as they "
                "were until the epoch has ended",
            )

    def _check_asks(self) -> None:
        for asks in (self.asks, self.checks):
            Collate(asks, self.config.image_size)  # refuses asks that do not agree
        for ask in (*self.asks, *self.checks):
            if not isinstance(ask.view, str) or ask.view not in (PLAIN, *self.augment):
                raise ConfigError(
                    f"a task asks for the view {ask.view!r} of {ask.kind}, which augment does not "
                    "describe",
                    f"use {', '.join(self.augment)}, or describe it: +augment.{ask.view}=…",
                )
        learnt, checked = ({ask.view for ask in asks} for asks in (self.asks, self.checks))
        views = max(len(learnt), len(checked | {PLAIN}))
        if self.config.batch_size < views:
            raise ConfigError(
                f"data.batch_size={self.config.batch_size} does not hold one image in its {views} "
                "views",
                f"use {views} or more",
            )

    def _tell_of_shared(self) -> None:
        """Of images that are learnt from and scored: lists of several data sets may overlap."""
        if self.train_split is None:
            return
        learnt, scored = (set(split.real_files()) for split in (self.train_split, self.val_split))
        if learnt & scored:
            log.warning(
                "%d of the %d images that are scored are learnt from, too",
                len(learnt & scored), len(scored),
            )  # fmt: skip

    def _tell_of_rare(self, dataset: ViewDataset, images: int) -> None:
        """Of folders that some batches have no image of."""
        split = dataset.split
        sums = np.bincount(split.folder, dataset.factors)
        for root, own in zip(split.roots, images * sums / sums.sum(), strict=True):
            if own < 1:
                log.warning(
                    "%s has an average of %.1f images in a batch: raise its share or the batch "
                    "size if each batch should reach its tasks", root, own,
                )  # fmt: skip

    def _leave_unmirrored(self, split: Split) -> None:
        """No mirror images in views of which labels would then not be known."""
        for ask in self.asks:
            config = self.augment.get(ask.view)
            if config and config.flip and not split.sources[ask.kind].space.mirrors:
                log.warning(
                    "view %s is not mirrored: %s does not say what its %s become then",
                    ask.view, split.sources[ask.kind].file, ask.kind,
                )  # fmt: skip
                self.augment[ask.view] = replace(config, flip=0.0)

    def _check(self, split: Split, learn: bool) -> None:
        for source in split.sources.values():
            source.check(learn)
        files = split.folders()
        for source in split.sources.values():
            files.setdefault(source.file.parent, set()).update(source.files())
        for folder, own in files.items():
            if not self.config.links:
                refuse_links_out(
                    own, folder, "put the file itself there, or allow it by data.links=true"
                )
            if self.config.check:
                check_image_files(sorted(own), self.config.max_pixels)

    def train_dataset(self) -> ViewDataset:
        """Every view that a task learns from."""
        assert self.train_split is not None, "there is no training split"
        return ViewDataset(
            self.train_split,
            self.config.image_size,
            self.asks,
            self._learnt_views(),
            self.config.repeat,
            self.seed,
        )

    def val_dataset(self) -> ViewDataset:
        """Letterboxed images, and further views that tasks check."""
        views: dict[str, AugmentConfig | None] = {PLAIN: None}
        for ask in self.checks:
            if ask.view != PLAIN:
                views[ask.view] = AugmentConfig(**vars(self.augment[ask.view]) | WHOLE)
        return ViewDataset(
            self.val_split, self.config.image_size, self.checks, views, seed=self.seed
        )

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.train_dataset(), shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.val_dataset(), shuffle=False)

    def _loader(self, dataset: ViewDataset, shuffle: bool) -> DataLoader[Any]:
        rank, world = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        images = images_of(dataset.views, self.config.batch_size)
        epoch, batches = self._start if shuffle else (0, 0)
        start = (epoch, batches * images)
        sampler = EpochSampler(
            dataset.factors, dataset.split.folder, images, shuffle, self.seed, rank, world, start
        )
        if shuffle and len(sampler) < images:
            able = sum(map(len, carried(dataset.views, len(sampler))))
            raise DataError(
                f"split {self.config.train!r} has {len(dataset)} images for {world} process(es), "
                f"fewer than one batch of {images}",
                f"set data.batch_size={able} or less",
            )
        if shuffle:
            self._tell_of_rare(dataset, images)
        return Loader(
            Reported(dataset),
            batch_size=images,
            sampler=sampler,
            num_workers=self.config.workers,
            collate_fn=partial(_collate, dataset.collate),
            drop_last=shuffle,
            timeout=self.config.timeout if self.config.workers else 0,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.config.workers > 0,
            worker_init_fn=_obedient,
        )


class Loader(DataLoader[Any]):
    """Starts its workers with one OpenCV thread each, and leaves the parent's threads alone.

    Workers are the parallelism. A pool of threads that exists when a worker is forked would leave
    the worker waiting for threads that it does not have.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        threads, others = cv2.getNumThreads(), set(multiprocessing.active_children())
        if self.num_workers:
            cv2.setNumThreads(1)
            atexit.unregister(_end_workers)
            atexit.register(_end_workers)
        try:
            return _raising(super().__iter__())
        finally:
            if self.num_workers:
                cv2.setNumThreads(threads)
                WORKERS.update(set(multiprocessing.active_children()) - others)


class Reported(Dataset[Any]):
    """Hands an error about the data on as a value: raised in a worker, it becomes a traceback."""

    def __init__(self, dataset: ViewDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, keys: Sequence[Key]) -> list[list[Row] | UserError]:
        """Of a batch; torch asks for its images together."""
        return [
            self._row(key, views)
            for key, views in zip(keys, carried(self.dataset.views, len(keys)), strict=True)
        ]

    def _row(self, key: Key, views: Collection[str]) -> list[Row] | UserError:
        try:
            return self.dataset.see(key, views)
        except UserError as error:
            return error


def _collate(collate: Collate, groups: Sequence[list[Row] | UserError]) -> Batch | UserError:
    """A batch, or the first of the errors."""
    for group in groups:
        if isinstance(group, UserError):
            return group
    return collate(groups)  # type: ignore[arg-type]


def _raising(batches: Iterator[Any]) -> Iterator[Any]:
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if not any(word in str(error) for word in LOST):
                raise
            raise JobError(
                f"no batch comes from the loading processes: {str(error).splitlines()[0]}",
                "look at what they said: memory or shared memory (/dev/shm) may be full, or a disk "
                "does not answer; data.workers=0 loads without them, data.timeout waits longer",
            ) from error
        if isinstance(batch, UserError):
            raise batch
        yield batch


LOST = ("DataLoader timed out", "DataLoader worker (pid")
"""What torch says of loading processes that are stuck, or no more."""
PATIENCE = 60
"""Seconds that a worker has to be ended by its parent, once it was told to end."""


WORKERS: WeakSet[BaseProcess] = WeakSet()
"""Processes that load for this one."""


def _end_workers() -> None:
    """When the process ends, by an error, too, so do those that load for it: at once."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises for each that is gone
    for worker in WORKERS:
        if worker.is_alive():
            worker.kill()


def _obedient(worker: int) -> None:
    """Threads inside of workers would only contend; how a job ends is their parent's decision.

    A worker that waits for a disk that does not answer ends by itself, once it was told to.
    """

    def told(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.alarm(PATIENCE)

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, told)
