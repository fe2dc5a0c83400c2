"""Instance embedding, the E of JDE: each detection gets a unit vector that tells who it is."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pytorch_metric_learning.losses import SupConLoss
from pytorch_metric_learning.utils.loss_and_miner_utils import get_all_pairs_indices
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from heads.embedding import EmbeddingHead
from unified.data.coco import CocoSplit
from unified.errors import ConfigError
from unified.metrics.retrieval import Retrieval
from unified.ops.boxes import shrink
from unified.ops.losses import zero_of
from unified.specs import Batch, DataSpec, FeatureSpec, Kept, Upstream, Vectors


class Memory(nn.Module):
    """The last vectors of training: partners beyond the batch (Wang et al. 2020, XBM).

    pytorch-metric-learning's `CrossBatchMemory` leaves its position out of the state dict, so that
    a resumed run would go on differently; here all of it is in buffers.

    Args:
        size: number of vectors; the oldest are overwritten. 0 remembers nothing.
        dim: their length.
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(size, dim))
        self.register_buffer("identities", torch.zeros(size, dtype=torch.long))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.vectors: Tensor
        self.identities: Tensor
        self.count: Tensor

    def recall(self) -> tuple[Tensor, Tensor]:
        """Vectors (M, D) and identities (M,) put in so far, at most `size`."""
        filled = min(int(self.count), len(self.vectors))
        return self.vectors[:filled].clone(), self.identities[:filled].clone()

    @torch.no_grad()
    def put(self, vectors: Tensor, identities: Tensor) -> None:
        """Overwrite the oldest with (N, D) vectors and (N,) identities."""
        size = len(self.vectors)
        if size == 0:
            return
        vectors, identities = vectors[-size:], identities[-size:]
        slots = (self.count + torch.arange(len(vectors), device=vectors.device)) % size
        self.vectors[slots] = vectors.to(self.vectors.dtype)
        self.identities[slots] = identities
        self.count += len(vectors)


class Embedding:
    """A dense map of vectors at the finest level, averaged over the core of a box.

    The finest level serves objects of every size: on coarse ones, neighbours share a cell
    (Zhang et al. 2021, FairMOT, section 3).

    Args:
        features, data: what trunk and data set publish.
        views: augmented views per image in the batch (`data.views`).
        width: channels of the head's stem.
        dim: length of the vectors.
        core: share of a box's sides over which the map is averaged.
        temperature: of the supervised contrastive loss (Khosla et al. 2020).
        memory: vectors of earlier steps that serve as partners too.
        max_vectors: objects per batch that enter the loss; a random choice beyond that.
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
        core: float = 0.4,
        temperature: float = 0.1,
        memory: int = 2048,
        max_vectors: int = 1024,
        loss_weights: Mapping[str, float] | None = None,
    ) -> None:
        labels = data.labels_for(self.name, "instances")
        if not labels.identified and views < 2:
            raise ConfigError(
                "task embedding: no annotation has a track_id or identity, and with one view per "
                "image no object has a partner",
                "set data.views=2, or add track_id to the annotations",
            )
        if not 0 < core <= 1:
            raise ConfigError(
                f"task.embedding.core={core} is no share of a box", "use 0 < core ≤ 1"
            )
        self.head = EmbeddingHead(features, width, dim)
        self.stride = features[self.head.level].stride
        self.core = core
        self.memory = Memory(memory, dim)
        self.contrast = SupConLoss(temperature=temperature)
        self.max_vectors = max_vectors
        self.loss_weights = dict(loss_weights or {})

    def loss(
        self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream
    ) -> dict[str, Tensor]:
        """Supervised contrastive loss over the annotated objects, against batch and memory."""
        targets = batch.targets
        rows = (~targets.crowd).nonzero().squeeze(1)
        if len(rows) > self.max_vectors:
            rows = rows[torch.randperm(len(rows), device=rows.device)[: self.max_vectors]]
        vectors = self._read(outputs, targets.boxes[rows], targets.image[rows])
        loss = self._contrast(vectors, targets.identities[rows])
        return {"contrast": loss + zero_of(outputs)}

    def _contrast(self, vectors: Tensor, identities: Tensor) -> Tensor:
        """Each of (N, D) vectors against all others and the memory, which then takes them in."""
        if not len(vectors):
            return vectors.sum()
        earlier, known = self.memory.recall()
        others = torch.cat([vectors, earlier.to(vectors.dtype)])
        names = torch.cat([identities, known])
        first, same, second, different = get_all_pairs_indices(identities, names)
        itself = first == same
        pairs = (first[~itself], same[~itself], second, different)
        self.memory.put(vectors.detach(), identities)
        loss: Tensor = self.contrast(vectors, identities, pairs, others, names)
        return loss

    def decode(
        self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream
    ) -> list[Vectors]:
        """Vectors of the kept detections and, where there is ground truth, of its objects."""
        kept: Kept = upstream["detection"]
        found = self._read(outputs, kept.boxes, kept.cells.image)
        targets = batch.targets
        rows = (~targets.crowd).nonzero().squeeze(1)
        image = targets.image[rows]
        truth = self._read(outputs, targets.boxes[rows], image)
        return [
            Vectors(
                vectors=found[kept.cells.image == i],
                truth_vectors=truth[image == i],
                truth_identities=targets.identities[rows][image == i],
            )
            for i in range(len(batch.metas))
        ]

    def _read(self, outputs: Mapping[str, Tensor], boxes: Tensor, image: Tensor) -> Tensor:
        """(N, D) unit vectors of boxes (N, 4) in input pixels, in the images `image` (N,)."""
        dense = outputs[self.head.level].float()
        places = torch.cat([image[:, None].to(boxes.dtype), shrink(boxes, self.core)], 1)
        read = roi_align(dense, places.float(), 1, 1 / self.stride, sampling_ratio=3, aligned=True)
        return F.normalize(read.flatten(1), dim=1)

    def metric(self, truth: CocoSplit) -> Retrieval:
        truth.require("instances")
        return Retrieval()
