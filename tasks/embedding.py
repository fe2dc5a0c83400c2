"""Instance embedding, the E of JDE: each detection gets a unit vector that tells who it is."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pytorch_metric_learning.losses import SupConLoss
from torch import Tensor
from torch.nn import functional as F

from heads.embedding import EmbeddingHead
from unified.data.coco import CocoSplit
from unified.errors import ConfigError, DataError
from unified.metrics.retrieval import Retrieval
from unified.ops.losses import zero_of
from unified.ops.matching import level_of_size
from unified.specs import Batch, Cells, DataSpec, FeatureSpec, Kept, Matches, Upstream, Vectors


class Embedding:
    """A dense map of vectors, read at the cells that detection is responsible for.

    Args:
        features, data: what trunk and data set publish.
        views: augmented views per image in the batch (`data.views`).
        width: channels of the head's stem.
        dim: length of the vectors.
        temperature: of the supervised contrastive loss (Khosla et al. 2020).
        max_vectors: cells per batch that enter the loss; a random choice beyond that.
        loss_weights: fixed weight of `contrast`.

    Identity is the annotation's `track_id` or `identity`; without these it is the annotation id,
    which repeats only across views, so two views are needed.
    """

    name = "embedding"
    requires = ("detection",)

    def __init__(
        self,
        features: FeatureSpec,
        data: DataSpec,
        views: int = 1,
        width: int = 64,
        dim: int = 64,
        temperature: float = 0.1,
        max_vectors: int = 1024,
        loss_weights: Mapping[str, float] | None = None,
    ) -> None:
        if "instances" not in data.labels:
            raise DataError(
                "task embedding needs boxes, and the data set has no instances_<split>.json",
                "add the file, or leave embedding out: task=[…]",
            )
        if not data.labels["instances"].identified and views < 2:
            raise ConfigError(
                "task embedding: no annotation has a track_id or identity, and with one view per "
                "image no object has a partner",
                "set data.views=2, or add track_id to the annotations",
            )
        self.levels = tuple(features)
        self.strides = tuple(level.stride for level in features.values())
        self.head = EmbeddingHead(features, width, dim)
        self.contrast = SupConLoss(temperature=temperature)
        self.max_vectors = max_vectors
        self.loss_weights = dict(loss_weights or {})

    def loss(
        self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream
    ) -> dict[str, Tensor]:
        """Supervised contrastive loss over the cells matched to objects with an identity."""
        matches: Matches = upstream["detection"]
        rows = _unambiguous(matches)
        if len(rows) > self.max_vectors:
            rows = rows[torch.randperm(len(rows), device=rows.device)[: self.max_vectors]]
        image, level, y, x, target = rows.unbind(1)
        vectors = Cells(image, level, y, x, self.levels).gather(outputs).float()
        zero = zero_of(outputs)
        if len(vectors) < 2:
            return {"contrast": zero}
        loss = self.contrast(F.normalize(vectors, dim=1), batch.targets.identities[target])
        return {"contrast": loss + zero}

    def decode(
        self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream
    ) -> list[Vectors]:
        """Vectors of the kept detections and, where there is ground truth, of its objects."""
        kept: Kept = upstream["detection"]
        found = F.normalize(kept.cells.gather(outputs).float(), dim=1)
        targets = batch.targets
        rows = (~targets.crowd).nonzero().squeeze(1)
        cells = self._centre_cells(targets.boxes[rows], targets.image[rows], outputs)
        truth = F.normalize(cells.gather(outputs).float(), dim=1)
        return [
            Vectors(
                vectors=found[kept.cells.image == i],
                truth_vectors=truth[cells.image == i],
                truth_identities=targets.identities[rows][cells.image == i],
            )
            for i in range(len(batch.metas))
        ]

    def _centre_cells(self, boxes: Tensor, image: Tensor, maps: Mapping[str, Tensor]) -> Cells:
        """The cell under each box's centre, on the level that fits its size."""
        level = level_of_size(boxes, self.strides)
        stride = torch.tensor(self.strides, device=boxes.device)[level]
        sizes = torch.tensor([maps[n].shape[2:] for n in self.levels], device=boxes.device)[level]
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        x, y = (centre / stride[:, None]).long().unbind(1)
        zero = torch.zeros_like(x)
        return Cells(
            image,
            level,
            y.clamp(zero, sizes[:, 0] - 1),
            x.clamp(zero, sizes[:, 1] - 1),
            self.levels,
        )

    def metric(self, truth: CocoSplit) -> Retrieval:
        return Retrieval()


def _unambiguous(matches: Matches) -> Tensor:
    """(K, 5) rows of image, level, y, x, target: cells that exactly one object claims.

    Anchors of one cell share its vector, and a vector cannot stand for two individuals.
    """
    cells = matches.cells
    rows = torch.stack([cells.image, cells.level, cells.y, cells.x, matches.target], 1)
    rows = rows.unique(dim=0)
    _, cell, claims = rows[:, :4].unique(dim=0, return_inverse=True, return_counts=True)
    return rows[claims[cell] == 1]
