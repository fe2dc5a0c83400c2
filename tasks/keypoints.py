"""Keypoints: the joints of every detection, at the anchor that found it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from heads.keypoints import KeypointHead
from unified.batch import Batch
from unified.bounds import Count, Name, NonNegative
from unified.kinds.keypoints import KeypointAsk, Keypoints, KeypointSpace, KeypointTargets
from unified.kinds.kind import STRONG, Source
from unified.kinds.objects import ObjectAsk, ObjectTargets, find_objects
from unified.ops.boxes import points_to_original
from unified.ops.dense import Anchors, Cells, DenseBoxes, Kept, Matches
from unified.ops.sampling import sample
from unified.task import DataSpec, Losses, Mean, Metric, Task, Upstream
from unified.trunks.features import FeatureSpec

TOLERANCE = 0.22
"""Share of an object's size, the root of its area, within which distances are squared."""
STEPS = 2
"""From the anchor's guess towards the joint, along the fields; a third brought nothing."""


@dataclass(frozen=True)
class Poses:
    """Of the kept detections.

    Attributes:
        joints: (N, K, 3) x, y in input pixels, and the probability that the joint is known.
        quality: (N,) how similar to the truth the joints are expected to be, 0 to 1.
    """

    joints: Tensor
    quality: Tensor


class KeypointDetection(Task):
    """Place and probability of the joints, at detection's anchors, and then from near the joints.

    Args:
        features, data, upstream: what trunk, data set and detection publish.
        width: channels of the head's stems.
        evaluator: `faster` (faster-coco-eval) or `pycocotools`.
        view: in which it learns; must be that of detection.
        loss_weights: fixed weights of similarity, distance, visibility and quality.
    """

    name = "keypoints"
    requires = (Anchors, DenseBoxes, Matches, Kept)
    truth = KeypointAsk
    losses = ("similarity", "distance", "visibility", "quality")

    def __init__(
        self,
        features: FeatureSpec,
        data: DataSpec,
        upstream: Upstream,
        width: Count = 64,
        evaluator: Literal["faster", "pycocotools"] = "faster",
        view: Name = STRONG,
        loss_weights: Mapping[str, NonNegative] | None = None,
    ) -> None:
        super().__init__()
        space: KeypointSpace = data.space(KeypointAsk)
        self.head = KeypointHead(features, upstream[Anchors].per_cell, space.most, width)
        self.asks = (ObjectAsk(view), KeypointAsk(view, space.most))
        self.evaluator = evaluator
        self.loss_weights = dict(loss_weights or {})
        index = {key: label for label, key in enumerate(space.ids)}
        classes = [index.get(key, -1) for key in data.space(ObjectAsk).ids]
        strides = list(self.head.strides.values())
        has = [[1.0] * len(joints) for joints in space.joints]
        for name, values in (
            ("classes", torch.tensor(classes)),  # of the objects → of the joints
            ("strides", torch.tensor(strides, dtype=torch.float32)),
            ("sigmas", torch.from_numpy(space.table(space.sigmas, 1.0))),
            ("has", torch.from_numpy(space.table(has, 0.0))),
        ):
            self.register_buffer(name, values, persistent=False)

    classes: Tensor
    strides: Tensor
    sigmas: Tensor
    has: Tensor

    def loss(
        self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream
    ) -> tuple[Losses, None]:
        """Joints of the matched anchors against those of their objects, where these have some.

        Similarity is 1 − OKS over the known joints, as COCO measures it (Maji et al. 2022,
        YOLO-Pose, equation 2), of the last guess, which is the result. It says nothing of joints
        that are far off: there distance does, of all guesses, in shares of the object's size, the
        same for all joints (pseudo-Huber; Charbonnier et al. 1997): squared within `TOLERANCE`, and
        from afar the same pull from anywhere. Visibility is the cross-entropy of whether a joint
        is known, quality that of the similarity reached. Reads joints (N, K, 3) and areas (N,) of
        the targets `keypoints`.
        """
        matches = upstream[Matches]
        objects: ObjectTargets = batch.labels["objects"]  # type: ignore[assignment]
        truth: KeypointTargets = batch.labels["keypoints"]  # type: ignore[assignment]
        rows = find_objects(objects, truth.image, truth.keys)[matches.target]
        matched = (rows >= 0).nonzero().squeeze(1)
        rows, cells = rows[matched], matches.cells.of(matched)
        first, quality = self._first(outputs, cells, upstream)
        guesses = self._guesses(outputs, first[..., :2], cells.image)
        joints, labels = truth.joints[rows], truth.labels[rows]
        known = (joints[..., 2] > 0).float()
        area = truth.areas[rows, None].clamp(min=1)
        # (1 + STEPS, N, K) of every guess, in areas of the object.
        errors = (guesses - joints[..., :2]).square().sum(-1) / area
        oks = _mean((-errors[-1] / (8 * self.sigmas[labels].square())).exp(), known)
        far = ((1 + errors / TOLERANCE**2).sqrt() - 1).mean(0)
        sure = F.binary_cross_entropy_with_logits(first[..., 2], known, reduction="none")
        expected = F.binary_cross_entropy_with_logits(quality, oks.detach(), reduction="none")
        some = known.any(1).float()
        count = area.new_full((), len(rows))
        losses = {
            "similarity": Mean(((1 - oks) * some).sum(), count),
            "distance": Mean(_mean(far, known).sum(), count),
            "visibility": Mean(_mean(sure, self.has[labels]).sum(), count),
            "quality": Mean((expected * some).sum(), count),
        }
        return losses, None

    def _first(
        self, outputs: Mapping[str, Tensor], cells: Cells, upstream: Upstream
    ) -> tuple[Tensor, Tensor]:
        """(N, K, 3) x, y in input pixels and the logit of the probability, and (N,) of quality.

        Places are in units of the anchor, so that small and large objects are equally hard.
        """
        said = cells.gather(self.head.of_anchors(outputs))
        raw = said[:, :-1].unflatten(1, (self.head.joints, 3))
        centre = torch.stack([cells.x, cells.y], 1) + 0.5
        stride = self.strides[cells.level][:, None, None]
        sizes = upstream[DenseBoxes].anchors[cells.level, cells.anchor]
        xy = centre[:, None] * stride + raw[..., :2] * sizes[:, None]
        return torch.cat([xy, raw[..., 2:]], -1), said[:, -1]

    def _guesses(self, outputs: Mapping[str, Tensor], first: Tensor, image: Tensor) -> Tensor:
        """(1 + STEPS, N, K, 2): the first places, and each moved on by the fields of all levels.

        The anchor has to know the whole pose; from near the joint, the rest of the way is easy to
        see (as short-range offsets refine longer ones in PersonLab, Papandreou et al. 2018).
        """
        fields, strides = self.head.fields(outputs), self.head.strides
        guesses = [first]
        for _ in range(STEPS):
            start = guesses[-1].detach()
            way = [
                stride * sample(fields[level], image, start / stride)
                for level, stride in strides.items()
            ]
            guesses.append(start + torch.stack(way).sum(0))
        return torch.stack(guesses)

    def keep(self, outputs: Mapping[str, Tensor], upstream: Upstream) -> Poses:
        cells = upstream[Kept].cells
        first, quality = self._first(outputs, cells, upstream)
        places = self._guesses(outputs, first[..., :2], cells.image)[-1]
        return Poses(torch.cat([places, first[..., 2:].sigmoid()], -1), quality.sigmoid())

    def finish(self, kept: Poses, batch: Batch, upstream: Upstream) -> list[Keypoints]:
        """Joints in original pixels, of the detections whose category has some, in their order."""
        found = upstream[Kept]
        labels = self.classes[found.labels]
        results = []
        for index, meta in enumerate(batch.metas):
            own = (found.cells.image == index) & (labels >= 0)
            joints = kept.joints[own]
            moved = torch.cat([points_to_original(joints[..., :2], meta), joints[..., 2:]], -1)
            results.append(Keypoints(found.scores[own], labels[own], moved, kept.quality[own]))
        return results

    def metric(self, source: Source) -> Metric:
        from unified.metrics.keypoint_ap import CocoKeypointAP

        return CocoKeypointAP(source, self.evaluator)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """(N, K) → (N,) mean over the joints that have a weight."""
    return (values * weights).sum(1) / weights.sum(1).clamp(min=1)
