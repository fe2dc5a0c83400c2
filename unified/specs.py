"""The words that the parts of the framework exchange: plain data, no behaviour to speak of.

Coordinates are continuous pixels, origin at the top-left corner of the top-left pixel, so an
image of width W spans [0, W]. Boxes are `x1 y1 x2 y2` unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from unified.errors import DataError

Array = NDArray[Any]


# --- What a trunk publishes -----------------------------------------------------------------


@dataclass(frozen=True)
class Level:
    """One map of the feature pyramid: its channels and how many input pixels a cell spans."""

    channels: int
    stride: int


FeatureSpec = Mapping[str, Level]
"""Level name (`p3`, finest first) to its channels and stride."""


# --- What a data set publishes --------------------------------------------------------------


@dataclass(frozen=True)
class LabelSpace:
    """The categories of one annotation kind, in the order of the network's outputs.

    Attributes:
        ids: category ids as written in the json; position in the tuple is the class index.
        names: category names, same order.
        things: True for countable objects, False for stuff.
        frequency: LVIS `r`, `c` or `f` per category; empty when the kind has none.
        keypoints: joint names; empty when the kind has none.
        skeleton: pairs of joint indices (0-based) that a drawing connects.
        identified: annotations name individuals (`track_id` or `identity`) across images.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    things: tuple[bool, ...]
    frequency: tuple[str, ...] = ()
    keypoints: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    identified: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for the checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> LabelSpace:
        """Inverse of `to_dict`, also after a trip through json."""
        values = {f.name: state[f.name] for f in fields(cls)}
        for name, value in values.items():
            if isinstance(value, (list, tuple)):
                values[name] = tuple(tuple(v) if isinstance(v, list) else v for v in value)
        return cls(**values)


@dataclass(frozen=True)
class DataSpec:
    """What a task needs to know of the data to complete itself.

    Attributes:
        labels: annotation kind (`instances`, `lvis`, …) to its label space.
        image_size: side in pixels of the square network input during training.
        box_sizes: (N, 2) widths and heights of the training boxes at that size, for anchors;
            None when a model is rebuilt from a checkpoint, which holds the anchors.
    """

    labels: Mapping[str, LabelSpace]
    image_size: int
    box_sizes: Array | None = None

    def labels_for(self, task: str, kind: str) -> LabelSpace:
        """The label space that a task learns.

        Raises:
            DataError: the data has no annotations of this kind.
        """
        if kind not in self.labels:
            raise DataError(
                f"task {task} needs {kind} labels, and the data set has no {kind}_<split>.json",
                "add the file, set data.derive=true where there are panoptic labels, or leave "
                f"{task} out: task=[…]",
            )
        return self.labels[kind]


# --- Samples and batches --------------------------------------------------------------------


@dataclass
class Rings:
    """Polygons of N objects, flat: any number of rings per object.

    Attributes:
        xy: (P, 2) float32 vertices of all rings.
        offsets: (R + 1,) ring r is `xy[offsets[r]:offsets[r + 1]]`.
        owner: (R,) index of the object that ring r belongs to.
    """

    xy: Array
    offsets: Array
    owner: Array


@dataclass
class Instances:
    """The annotated objects of one image; every array has N rows.

    Attributes:
        boxes: (N, 4) float32 `x1 y1 x2 y2`.
        labels: (N,) int64 class indices.
        crowd: (N,) bool, a region of uncounted objects.
        ids: (N,) int64 annotation ids.
        identities: (N,) int64 individual ids, the annotation id where none is given.
        rings: polygons, or None when no object has any.
        rles: object index to COCO's compressed RLE, for masks that are not polygons.
        keypoints: (N, K, 3) float32 x, y, visibility (0 absent, 1 hidden, 2 visible), or None.
        masks: (N, h, w) uint8 coverage of every cell, 255 is all of it, or None.
    """

    boxes: Array
    labels: Array
    crowd: Array
    ids: Array
    identities: Array
    rings: Rings | None = None
    rles: dict[int, dict[str, Any]] = field(default_factory=dict)
    keypoints: Array | None = None
    masks: Array | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass
class Segments:
    """A panoptic or stuff label kept in a file: where it is, and what its ids mean."""

    file: str
    ids: Array
    labels: Array
    crowd: Array


@dataclass
class LvisLabels:
    """LVIS instances and the federated lists: class indices checked absent, or not exhausted."""

    instances: Instances
    negatives: Array
    not_exhaustive: Array


@dataclass(frozen=True)
class ImageMeta:
    """Where an input came from.

    Attributes:
        image_id: id in the json, -1 for an image without one.
        file: path of the image file, or a description.
        height, width: original size in pixels.
        transform: (2, 3) float64, original pixels to network-input pixels.
        view: 0 for the image itself, 1 and up for further augmented views of it.
    """

    image_id: int
    file: str
    height: int
    width: int
    transform: Array
    view: int = 0


IGNORE = 255
"""Value of a pixel without a label in a map of class indices."""


@dataclass
class Sample:
    """One network input with whatever labels its image has; a missing kind is None.

    `image` is (S, S, 3) uint8 RGB. Instance-like labels are in input pixels. `maps` holds what
    was asked for: annotation kind → (s, s) uint8 class indices, `IGNORE` where nothing is known.
    """

    image: Array
    meta: ImageMeta
    instances: Instances | None = None
    lvis: LvisLabels | None = None
    captions: tuple[str, ...] | None = None
    maps: dict[str, Array] = field(default_factory=dict)


@dataclass
class Targets:
    """Objects of a whole batch, flat: M rows over all images.

    Attributes:
        image: (M,) int64 position of the image in the batch.
        boxes: (M, 4) float32 in input pixels.
        labels: (M,) int64.
        crowd: (M,) bool.
        identities: (M,) int64.
        masks: (M, s, s) uint8 coverage of every cell, 255 is all of it, or None.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    identities: Tensor
    masks: Tensor | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Targets:
        """The same on another device."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {
            k: v.to(device, non_blocking=non_blocking) for k, v in given.items() if v is not None
        }
        return Targets(**moved)


@dataclass
class Batch:
    """What the network sees in one step.

    Attributes:
        images: (B, 3, S, S) uint8 RGB, channels_last in memory.
        metas: B origins.
        targets: objects of all images.
        labelled: (B,) bool, the image has instance annotations (possibly none in view).
        samples: the B samples, for tasks that read other kinds of labels.
        maps: annotation kind → (B, s, s) uint8 class indices, `IGNORE` where nothing is known.
    """

    images: Tensor
    metas: list[ImageMeta]
    targets: Targets
    labelled: Tensor
    samples: list[Sample] = field(default_factory=list)
    maps: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same on another device."""
        return Batch(
            images=self.images.to(device, non_blocking=non_blocking),
            metas=self.metas,
            targets=self.targets.to(device, non_blocking=non_blocking),
            labelled=self.labelled.to(device, non_blocking=non_blocking),
            samples=self.samples,
            maps={k: v.to(device, non_blocking=non_blocking) for k, v in self.maps.items()},
        )

    def pin_memory(self) -> Batch:
        """Page-locked tensors, so that the copy to the accelerator overlaps with its work."""
        self.images = self.images.pin_memory()
        self.maps = {k: v.pin_memory() for k, v in self.maps.items()}
        if self.targets.masks is not None:
            self.targets.masks = self.targets.masks.pin_memory()
        return self


# --- What tasks publish to each other -------------------------------------------------------


@dataclass(frozen=True)
class Cells:
    """K anchors in the feature pyramid.

    Attributes:
        image, level, anchor, y, x: (K,) int64; `level` indexes `levels`.
        levels: level names, finest first.
        per_cell: anchors per cell.
    """

    image: Tensor
    level: Tensor
    anchor: Tensor
    y: Tensor
    x: Tensor
    levels: tuple[str, ...]
    per_cell: int

    def gather(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Read (K, C) vectors, float32, from per-level maps (B, A, C, H, W)."""
        first = maps[self.levels[0]]
        out = first.new_zeros(len(self.image), first.shape[2], dtype=torch.float32)
        for index, name in enumerate(self.levels):
            rows = (self.level == index).nonzero().squeeze(1)
            # Advanced indices around a slice put the gathered axis first: (k, C).
            place = self.image[rows], self.anchor[rows], slice(None), self.y[rows], self.x[rows]
            out[rows] = maps[name][place].float()
        return out


@dataclass(frozen=True)
class Matches:
    """Training: which anchors are responsible for which target (index into `Batch.targets`)."""

    cells: Cells
    target: Tensor


@dataclass(frozen=True)
class Kept:
    """Decoding: the detections that survived, flat over the batch, in input pixels."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    cells: Cells


@dataclass(frozen=True)
class MaskLogits:
    """Decoding: a mask for every kept detection, image by image, before it is enlarged.

    Attributes:
        images: B tensors (N, h, w) of logits, in the order of the image's `Detections`.
        found: B `Detections` that they belong to.
        stride: input pixels per cell.
    """

    images: list[Tensor]
    found: list[Detections]
    stride: int


@dataclass(frozen=True)
class PixelLogits:
    """Decoding: (B, C, h, w) logits of the classes of annotation kind `kind`."""

    logits: Tensor
    stride: int
    kind: str


Upstream = dict[str, Any]
"""Task name to what it published for the tasks that require it, one of the types above."""


# --- Predictions ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Detections:
    """Objects of one image, best first: `boxes` (N, 4) in original pixels, `scores`, `labels`."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Masks:
    """Instance masks of one image, one per detection, best first.

    Attributes:
        boxes, scores, labels: as in `Detections`.
        rles: N masks of the original size as COCO's compressed run lengths.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    rles: list[dict[str, Any]]

    def dense(self) -> Array:
        """(N, H, W) uint8 of zeros and ones; (0, 0, 0) where there is none."""
        return np.stack([coco_mask.decode(rle) for rle in self.rles]) if self.rles else _NO_MASKS


_NO_MASKS = np.zeros((0, 0, 0), np.uint8)


@dataclass(frozen=True)
class Tags:
    """Multi-label classification of one image: `scores` (C,), one probability per category."""

    scores: Tensor


@dataclass(frozen=True)
class PixelClasses:
    """Semantic segmentation of one image: `classes` (H, W) uint8 indices at its original size.

    `kind` names the label space that the indices belong to.
    """

    classes: Tensor
    kind: str


@dataclass(frozen=True)
class PanopticSegments:
    """Panoptic segmentation of one image.

    Attributes:
        segments: (H, W) int32; 0 is no segment, k belongs to row k − 1 of the others.
        labels: (S,) int64 class indices of the panoptic label space.
        scores: (S,) of things, that of the detection; 1 for stuff.
    """

    segments: Tensor
    labels: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Vectors:
    """Unit vectors of one image.

    Attributes:
        vectors: (N, D), one per detection, in the order of the image's `Detections`.
        truth_vectors: (M, D), one per annotated object; empty where there is no annotation.
        truth_identities: (M,) int64.
    """

    vectors: Tensor
    truth_vectors: Tensor
    truth_identities: Tensor


Prediction = dict[str, Any]
"""Task name to that task's typed prediction for one image."""
