"""Keypoints: the joints of objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from unified.arrays import Array, Json
from unified.canvas import Canvas
from unified.kinds.kind import Ask, Categories, FlatTargets, Result, known_rows
from unified.kinds.objects import image_of_rows, join_keys
from unified.view import View

if TYPE_CHECKING:
    from typing_extensions import Self

SURE = 0.5
"""Joints that are less probable are not drawn."""
PIXEL = 0.5
"""COCO's joints are indices of pixels; a pixel's centre is half a pixel further in our places."""
Edges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class KeypointSpace(Categories):
    """Categories with joints; every field has an entry per category.

    Attributes:
        joints: names of the joints.
        skeleton: pairs of joints that a line connects.
        flips: the joint that each one becomes in a mirror image; empty where nobody said so.
        sigmas: how far annotators lie apart at each joint, as a share of the object's size
            (Ronchi & Perona 2017), which object keypoint similarity is measured by.
    """

    joints: tuple[tuple[str, ...], ...]
    skeleton: tuple[Edges, ...]
    flips: tuple[tuple[int, ...], ...]
    sigmas: tuple[tuple[float, ...], ...]

    @property
    def most(self) -> int:
        """Joints of the category that has most."""
        return max(map(len, self.joints), default=0)

    @property
    def mirrors(self) -> bool:
        """Whether the labels of a mirror image are known."""
        return all(self.flips)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        space = super().from_dict(state)
        rows = zip(space.joints, space.skeleton, space.flips, space.sigmas, strict=True)
        for joints, skeleton, flip, sigmas in rows:
            every = list(range(len(joints)))
            within = all(joint in every for edge in skeleton for joint in edge)
            measured = len(sigmas) == len(joints) and all(0 < sigma <= 1 for sigma in sigmas)
            if not within or (flip and sorted(flip) != every) or not measured:
                raise ValueError("what is said of joints does not fit their number")
        return space

    def differs(self, other: Any) -> str | None:
        if self.joints != other.joints:
            return "other joints, or in another order"
        if self.sigmas != other.sigmas:
            return "other sigmas, by which joints are measured"
        return super().differs(other)

    def table(self, values: Sequence[Sequence[float]], fill: float) -> Array:
        """(C, K) of a value per joint; `fill` where a category has fewer joints."""
        rows = [list(own) + [fill] * (self.most - len(own)) for own in values]
        return np.array(rows, np.float32).reshape(len(rows), self.most)


@dataclass(frozen=True)
class KeypointLabel:
    """The joints of the objects of one image that have some; every array has N rows.

    Attributes:
        keys: (N,) int64, those of the objects.
        labels: (N,) int64 indices of the keypoint categories.
        joints: (N, K, 3) float32 x, y, and 0 not known, 1 hidden, 2 visible.
        areas: (N,) float32 of the objects, in square pixels.
        flips: (C, K) int64 the joint that each one becomes in a mirror image.
    """

    keys: Array
    labels: Array
    joints: Array
    areas: Array
    flips: Array

    def seen(self, view: View, ask: KeypointAsk) -> KeypointLabel:
        """Joints outside of the input are not known; a mirror image exchanges left and right."""
        xy = view.points(self.joints[..., :2].reshape(-1, 2)).reshape(*self.joints.shape[:2], 2)
        inside = ((xy >= 0) & (xy <= view.size)).all(-1)
        known = np.where(inside, self.joints[..., 2], 0)
        joints = np.concatenate([np.where(known[..., None] > 0, xy, 0), known[..., None]], -1)
        if view.mirrored:
            joints = np.take_along_axis(joints, self.flips[self.labels][..., None], 1)
        scale = abs(float(np.linalg.det(view.matrix[:, :2])))
        return replace(self, joints=joints.astype(np.float32), areas=self.areas * np.float32(scale))

    @classmethod
    def joined(cls, parts: Sequence[KeypointLabel]) -> KeypointLabel:
        return cls(
            keys=join_keys([p.keys for p in parts]),
            labels=np.concatenate([p.labels for p in parts]),
            joints=np.concatenate([p.joints for p in parts]),
            areas=np.concatenate([p.areas for p in parts]),
            flips=parts[0].flips,
        )

    @classmethod
    def batched(
        cls, rows: Sequence[KeypointLabel | None], ask: KeypointAsk, size: int
    ) -> KeypointTargets:
        known = [row for row in rows if row is not None]

        def flat(name: str, dtype: torch.dtype, *shape: int) -> Tensor:
            empty = np.zeros((0, *shape))
            values = np.concatenate([empty, *(getattr(k, name) for k in known)])
            return torch.from_numpy(values).to(dtype)

        return KeypointTargets(
            known=known_rows(rows),
            image=image_of_rows([row and row.keys for row in rows]),
            keys=flat("keys", torch.int64),
            labels=flat("labels", torch.int64),
            joints=flat("joints", torch.float32, ask.joints, 3),
            areas=flat("areas", torch.float32),
        )


@dataclass
class KeypointTargets(FlatTargets):
    """Joints of objects of B inputs: M rows, for objects that have some.

    Attributes:
        keys: (M,) int64, those of the objects; see `find_objects`.
        labels: (M,) int64 indices of the keypoint categories.
        joints: (M, K, 3) float32 x, y in input pixels, and 0 not known, 1 hidden, 2 visible.
        areas: (M,) float32 of the objects, in square input pixels.
    """

    keys: Tensor
    labels: Tensor
    joints: Tensor
    areas: Tensor

    def shown(self, row: int) -> Keypoints:
        own = self.image == row
        joints = self.joints[own]
        sure = torch.cat([joints[..., :2], (joints[..., 2:] > 0).float()], -1)
        ones = torch.ones(len(joints))
        return Keypoints(ones, self.labels[own], sure, ones)


@dataclass(frozen=True)
class KeypointAsk(Ask):
    """Joints of the objects.

    Attributes:
        joints: K, those of the category that has most.
    """

    kind = "keypoints"
    seen = KeypointLabel
    space = KeypointSpace

    joints: int = 0


@dataclass(frozen=True)
class Keypoints(Result):
    """Joints of one image, for each detection of a category that has some, in their order.

    Attributes:
        scores: (N,) of the detections.
        labels: (N,) int64 indices of the keypoint categories.
        joints: (N, K, 3) x, y in original pixels, and the probability that the joint is known.
        quality: (N,) how similar to the truth the joints are expected to be (OKS), 0 to 1.
    """

    kind: ClassVar[str] = KeypointAsk.kind
    panel: ClassVar[str | None] = "objects"
    layer: ClassVar[int] = 2

    scores: Tensor
    labels: Tensor
    joints: Tensor
    quality: Tensor

    @property
    def names(self) -> list[str]:
        """Category of each object."""
        return [self.space.names[label] for label in self.labels.tolist()]

    def above(self, min_score: float) -> Keypoints:
        own = self.scores >= min_score
        return replace(
            self, scores=self.scores[own], labels=self.labels[own], joints=self.joints[own],
            quality=self.quality[own],
        )  # fmt: skip

    def plain(self) -> Json:
        """category, score, quality, and x, y, probability of each joint by its name."""
        rows = zip(
            self.names, self.labels.tolist(), self.scores.tolist(), self.quality.tolist(),
            self.joints.tolist(), strict=True,
        )  # fmt: skip
        return [
            {
                "category": name,
                "score": round(score, 5),
                "quality": round(quality, 5),
                "keypoints": {
                    joint: [round(x, 2), round(y, 2), round(sure, 5)]
                    for joint, (x, y, sure) in zip(self.space.joints[label], joints, strict=False)
                },
            }
            for name, label, score, quality, joints in rows
        ]

    def draw(self, canvas: Canvas) -> None:
        """Dots and lines; joints that are hardly probable are left out."""
        joints = self.joints.cpu().numpy()
        for index, (label, points) in enumerate(zip(self.labels.tolist(), joints, strict=True)):
            own = points[: len(self.space.joints[label])]
            canvas.skeleton(own[:, :2], own[:, 2] >= SURE, self.space.skeleton[label], index)
