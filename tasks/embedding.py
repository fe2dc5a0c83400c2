"""Instance embedding, the E of JDE: each detection gets a unit vector that tells who it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from heads.embedding import EmbeddingHead
from unified.batch import Batch
from unified.bounds import Count, Name, NonNegative, Positive, Whole
from unified.errors import ConfigError
from unified.kinds.kind import STRONG, Source
from unified.kinds.objects import ObjectAsk, ObjectTargets
from unified.kinds.vectors import Vectors
from unified.ops.boxes import shrink
from unified.ops.dense import Kept
from unified.ops.processes import gather_rows
from unified.task import DataSpec, Losses, Mean, Metric, Task, Upstream
from unified.trunks.features import FeatureSpec, check_levels
from unified.view import PLAIN


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


@dataclass(frozen=True)
class VectorMap:
    """Unit vectors (K, D) of the kept detections, read from the map (B, D, H, W)."""

    vectors: Tensor
    dense: Tensor


class Embedding(Task):
    """A dense map of vectors at one level, averaged over the core of a box.

    The finest level, which is read where no other is named, serves objects of every size: on coarse
    ones, neighbours share a cell (Zhang et al. 2021, FairMOT, section 3).

    Args:
        features, data: what trunk and data set publish.
        views: in which it learns; with more than one, an object's view is partner of its others.
        level: of the pyramid, as p4; the finest where none is named.
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
    requires = (Kept,)
    truth = ObjectAsk
    losses = ("contrast",)
    meaning = ("level",)

    def __init__(
        self,
        features: FeatureSpec,
        data: DataSpec,
        views: Annotated[Sequence[Name], Meta(min_length=1)] = (STRONG,),
        level: Name | None = None,
        width: Count = 64,
        dim: Count = 64,
        core: Annotated[float, Meta(gt=0, le=1)] = 0.4,
        temperature: Positive = 0.1,
        memory: Whole = 2048,
        max_vectors: Count = 1024,
        loss_weights: Mapping[str, NonNegative] | None = None,
    ) -> None:
        super().__init__()
        if not data.space(ObjectAsk).identified and len(set(views)) < 2:
            raise ConfigError(
                "task embedding: no annotation has a track_id or identity, and with one view per "
                "image no object has a partner",
                "set task.embedding.views=[strong,weak], or add track_id to the annotations",
            )
        level = level or next(iter(features))
        check_levels("task.embedding.level", [level], features)
        self.asks = tuple(ObjectAsk(view) for view in views)
        # In validation the image itself takes the place of the first view.
        self.checks = tuple(ObjectAsk(view) for view in (PLAIN, *views[1:]))
        self.head = EmbeddingHead(features, level, width, dim)
        self.stride = features[level].stride
        self.core, self.temperature = core, temperature
        self.memory = Memory(memory, dim)
        self.max_vectors = max_vectors
        self.loss_weights = dict(loss_weights or {})

    def loss(
        self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream
    ) -> tuple[Losses, None]:
        """Supervised contrastive loss of the annotated objects, against batch and memory.

        Reads boxes (M, 4), identities (M,) and crowd (M,) of the targets `objects`.
        """
        targets: ObjectTargets = batch.labels["objects"]  # type: ignore[assignment]
        rows = (~targets.crowd).nonzero().squeeze(1)
        if len(rows) > self.max_vectors:
            rows = rows[torch.randperm(len(rows), device=rows.device)[: self.max_vectors]]
        dense = outputs[self.head.level].float()
        vectors = self._read(dense, targets.boxes[rows], targets.image[rows])
        return {"contrast": self._contrast(vectors, targets.identities[rows])}, None

    def _contrast(self, vectors: Tensor, identities: Tensor) -> Mean:
        """Each of (N, D) vectors against those of all processes and the memory.

        The mean is over the vectors that have a partner. The memory then takes in all of them, so
        that it is the same in every process.
        """
        from pytorch_metric_learning.losses import SupConLoss
        from pytorch_metric_learning.reducers import DoNothingReducer
        from pytorch_metric_learning.utils.loss_and_miner_utils import get_all_pairs_indices

        batch, start = gather_rows(vectors)
        present, _ = gather_rows(identities)
        earlier, known = self.memory.recall()
        others, names = torch.cat([batch, earlier.to(batch.dtype)]), torch.cat([present, known])
        first, same, second, different = get_all_pairs_indices(identities, names)
        itself = first + start == same
        pairs = (first[~itself], same[~itself], second, different)
        self.memory.put(batch.detach(), present)
        contrast = SupConLoss(temperature=self.temperature, reducer=DoNothingReducer())
        losses = contrast(vectors, identities, pairs, others, names)["loss"]["losses"]
        if not isinstance(losses, Tensor):  # no vector has a partner
            losses = vectors.sum(1) * 0.0
        partnered = losses > 0
        # Every process waits for the gradient of what it lent, also one that made nothing of it.
        return Mean((losses * partnered).sum() + batch.sum() * 0.0, partnered.sum())

    def keep(self, outputs: Mapping[str, Tensor], upstream: Upstream) -> VectorMap:
        dense, found = outputs[self.head.level].float(), upstream[Kept]
        return VectorMap(self._read(dense, found.boxes, found.cells.image), dense)

    def finish(self, kept: VectorMap, batch: Batch, upstream: Upstream) -> list[Vectors]:
        """Vectors of the kept detections and, where there are annotations, of their objects.

        Further views, which come behind the images themselves, have annotated objects alone.
        """
        found = upstream[Kept]
        targets = batch.labels.get("objects")
        results = []
        for index in range(len(batch.metas)):
            own = found.cells.image == index
            truth, identities = kept.vectors[:0], kept.vectors.new_zeros(0, dtype=torch.long)
            if isinstance(targets, ObjectTargets):
                rows = ((targets.image == index) & ~targets.crowd).nonzero().squeeze(1)
                truth = self._read(kept.dense, targets.boxes[rows], targets.image[rows])
                identities = targets.identities[rows]
            results.append(Vectors(kept.vectors[own], found.scores[own], truth, identities))
        return results

    def _read(self, dense: Tensor, boxes: Tensor, image: Tensor) -> Tensor:
        """(N, D) unit vectors of boxes (N, 4) in input pixels, in the images `image` (N,)."""
        places = torch.cat([image[:, None].to(boxes.dtype), shrink(boxes, self.core)], 1)
        read = roi_align(dense, places.float(), 1, 1 / self.stride, sampling_ratio=3, aligned=True)
        return F.normalize(read.flatten(1), dim=1)

    def metric(self, source: Source) -> Metric:
        from unified.metrics.retrieval import Retrieval

        return Retrieval()
