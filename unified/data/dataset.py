"""From a split to samples, and from samples to a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from unified.data.augment import (
    AugmentConfig,
    apply_colour,
    draw_colour,
    draw_mosaic,
    draw_single,
)
from unified.data.coco import LABEL_FILES, CocoSplit
from unified.data.geometry import (
    PADDING,
    compose,
    letterbox,
    merge,
    mirror_pairs,
    rasterise,
    transform_instances,
    warp_labels,
    warp_onto,
)
from unified.data.images import read_image
from unified.errors import DataError
from unified.specs import (
    IGNORE,
    Array,
    Batch,
    ImageMeta,
    Instances,
    LvisLabels,
    Sample,
    Targets,
)

Key = tuple[int, int]
"""(epoch, position in the split): together with the seed all that a sample's randomness knows."""


class CocoDataset(Dataset[list[Sample]]):
    """Samples of a split.

    Args:
        split: the annotated images.
        size: side of the square input in pixels, a multiple of 32.
        augment: what to draw for training; None letterboxes.
        views: samples per image. In training all are augmented; in validation view 0 is the
            plain image and the others are drawn with `view_augment`.
        seed: start of all randomness; a sample depends on (seed, epoch, position) only, not on
            the number of workers or on what was drawn before.
        view_augment: augmentation of further views in validation.
        map_strides: annotation kind → stride of what to draw: class maps of `stuff` and
            `panoptic`, masks of `instances`.
    """

    def __init__(
        self,
        split: CocoSplit,
        size: int,
        augment: AugmentConfig | None,
        views: int = 1,
        seed: int = 0,
        view_augment: AugmentConfig | None = None,
        map_strides: Mapping[str, int] | None = None,
    ) -> None:
        self.split, self.size, self.augment = split, size, augment
        self.views, self.seed = views, seed
        self.view_augment = view_augment
        self.map_strides = dict(map_strides or {})
        space = split.labels.get("person_keypoints")
        self.mirror = mirror_pairs(space.keypoints) if space else np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: Key) -> list[Sample]:
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        mosaic = self.augment is not None and rng.random() < self.augment.mosaic
        sources = [index, *rng.integers(len(self), size=3).tolist()] if mosaic else [index]
        return [self._view(rng, sources, view) for view in range(self.views)]

    def _view(self, rng: np.random.Generator, sources: list[int], view: int) -> Sample:
        augment = self.augment or (self.view_augment if view else None)
        shapes = [(int(self.split.heights[i]), int(self.split.widths[i])) for i in sources]
        if augment is None:
            matrices = [letterbox(*shapes[0], self.size)]
        elif len(sources) == 4:
            matrices = draw_mosaic(rng, augment, shapes, self.size)
        else:
            matrices = [draw_single(rng, augment, *shapes[0], self.size)]
        canvas = np.full((self.size, self.size, 3), PADDING, np.uint8)
        for index, matrix in zip(sources, matrices, strict=True):
            self._draw(canvas, index, matrix)
        tables = draw_colour(rng, augment) if augment else None
        return self._label(apply_colour(canvas, tables), sources, matrices, view, augment)

    def _draw(self, canvas: Array, index: int, matrix: Array) -> None:
        file = self.split.image_file(index)
        scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
        image = read_image(file, scale)
        height, width = int(self.split.heights[index]), int(self.split.widths[index])
        factor = np.array([width / image.shape[1], height / image.shape[0]])
        if abs(factor[0] / factor[1] - 1) > 0.1 or factor.min() < 0.9:
            raise DataError(
                f"image {file} is not the {width}×{height} pixels that the json says",
                "correct width and height in the json, or undo the rotation of the file",
            )
        warp_onto(canvas, image, compose(matrix, np.column_stack([np.diag(factor), [0.0, 0.0]])))

    def _label(
        self,
        image: Array,
        sources: list[int],
        matrices: list[Array],
        view: int,
        augment: AugmentConfig | None,
    ) -> Sample:
        split, index = self.split, sources[0]
        whole = len(sources) == 1
        mask_stride = self.map_strides.get("instances", 0)
        objects = [split.instances(i, masks=mask_stride > 0) for i in sources]
        instances = self._move(objects, matrices, augment)
        if instances is not None and mask_stride:
            instances.masks = rasterise(instances, self.size, mask_stride)
        lvis = split.lvis(index) if whole else None
        if lvis is not None:
            moved = self._move([lvis.instances], matrices, augment)
            assert moved is not None
            lvis = LvisLabels(moved, lvis.negatives, lvis.not_exhaustive)
        return Sample(
            image=image,
            meta=ImageMeta(
                image_id=int(split.ids[index]),
                file=str(split.image_file(index)),
                height=int(split.heights[index]),
                width=int(split.widths[index]),
                transform=matrices[0],
                view=view,
            ),
            instances=instances if split.has_instances[sources].all() else None,
            lvis=lvis,
            captions=split.caption_texts(index) if whole else None,
            maps=self._draw_maps(sources, matrices),
        )

    def _draw_maps(self, sources: list[int], matrices: list[Array]) -> dict[str, Array]:
        """Kind → (S/stride, S/stride) class indices of all source images; one warp each."""
        strides = {kind: s for kind, s in self.map_strides.items() if kind in LABEL_FILES}
        maps = {k: np.full((self.size // s,) * 2, IGNORE, np.uint8) for k, s in strides.items()}
        for index, matrix in zip(sources, matrices, strict=True):
            for kind, stride in strides.items():
                place = compose(np.array([[1 / stride, 0, 0], [0, 1 / stride, 0]]), matrix)
                warp = partial(warp_labels, matrix=place, side=self.size // stride)
                classes = self.split.class_map(kind, index, warp)
                if classes is not None:
                    np.copyto(maps[kind], classes, where=classes != IGNORE)
        return maps

    def _move(
        self,
        parts: Sequence[Instances | None],
        matrices: list[Array],
        augment: AugmentConfig | None,
    ) -> Instances | None:
        limits = (augment.min_side, augment.min_visible) if augment else (0.0, 0.0)
        moved = [
            transform_instances(part, matrix, self.size, self.mirror, *limits)
            for part, matrix in zip(parts, matrices, strict=True)
            if part is not None
        ]
        if not moved:
            return None
        return moved[0] if len(moved) == 1 else merge(moved)


def collate(groups: Sequence[list[Sample]]) -> Batch:
    """Samples, view by view within each image, to one batch."""
    samples = [sample for group in groups for sample in group]
    # (B, S, S, 3) in memory is exactly channels_last: no transposition, no copy.
    images = torch.from_numpy(np.stack([s.image for s in samples])).permute(0, 3, 1, 2)
    labelled = [s for s in samples if s.instances is not None]
    parts = [s.instances for s in samples if s.instances is not None]
    counts = [0 if s.instances is None else len(s.instances) for s in samples]

    def flat(name: str, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        if not labelled:
            return torch.zeros((0, *shape), dtype=dtype)
        return torch.from_numpy(np.concatenate([getattr(p, name) for p in parts])).to(dtype)

    return Batch(
        images=images,
        metas=[s.meta for s in samples],
        targets=Targets(
            image=torch.repeat_interleave(torch.arange(len(samples)), torch.tensor(counts)),
            boxes=flat("boxes", torch.float32, 4),
            labels=flat("labels", torch.int64),
            crowd=flat("crowd", torch.bool),
            identities=flat("identities", torch.int64),
            masks=_join_masks(parts),
        ),
        labelled=torch.tensor([s.instances is not None for s in samples]),
        samples=samples,
        maps=_stack_maps(samples),
    )


def _join_masks(parts: Sequence[Instances]) -> torch.Tensor | None:
    """(M, s, s) of all images, or None where none were drawn."""
    masks = [part.masks for part in parts if part.masks is not None]
    return torch.from_numpy(np.concatenate(masks)) if masks else None


def _stack_maps(samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """Kind → (B, s, s); samples without a map know nothing."""
    shapes = {kind: m.shape for sample in samples for kind, m in sample.maps.items()}
    return {
        kind: torch.from_numpy(
            np.stack([s.maps.get(kind, np.full(shape, IGNORE, np.uint8)) for s in samples])
        )
        for kind, shape in shapes.items()
    }


class EpochSampler(Sampler[Key]):
    """(epoch, position) keys, shuffled per epoch, dealt out to the processes of a job.

    Lightning calls `set_epoch`, so a resumed run draws what the uninterrupted one would have.
    """

    def __init__(
        self, length: int, shuffle: bool, seed: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        self.length, self.shuffle, self.seed = length, shuffle, seed
        self.rank, self.world = rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.length // self.world)

    def __iter__(self) -> Iterator[Key]:
        order = np.arange(self.length)
        if self.shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        padded = np.resize(order, len(self) * self.world)
        # Validation always draws as in epoch 0: the same further views every time.
        epoch = self.epoch if self.shuffle else 0
        for index in padded[self.rank :: self.world]:
            yield epoch, int(index)
