"""The contracts between trunk, head, task and metric. Nothing here computes anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor, nn

from unified.specs import Batch, FeatureSpec, Prediction, Upstream

if TYPE_CHECKING:
    from unified.data.coco import CocoSplit


@runtime_checkable
class Trunk(Protocol):
    """The explicit representation f_θ(x)."""

    features: FeatureSpec

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) in [0, 1] to level name → (B, C, H/stride, W/stride)."""
        ...


class Metric(Protocol):
    """Collects predictions over a validation set, scores them, writes the official file."""

    primary: str

    def update(self, predictions: Sequence[Any], batch: Batch) -> None:
        """Take the B predictions of a batch; images with `meta.view > 0` are extra views."""
        ...

    def compute(self) -> dict[str, float]:
        """Metric name → value; `primary` is among the names."""
        ...

    def reset(self) -> None:
        """Forget everything."""
        ...

    def write(self, folder: Path) -> None:
        """Write the official result file of this task into `folder`."""
        ...

    def curves(self) -> dict[str, tuple[Any, Any]]:
        """Curve name → (x, y) for the run folder's plots; may be empty."""
        ...


class Task(Protocol):
    """One job: target shaping, head, loss, decoding and metric.

    Attributes:
        name: the key under which the task appears everywhere.
        head: its discriminator.
        requires: tasks whose published results it reads.
        loss_weights: loss name → its fixed weight within the task.

    A task that learns from pixels has `maps`, annotation kind → stride; the data then draws class
    maps of `stuff` and `panoptic` into `Batch.maps`, masks of `instances` into `Targets.masks`.
    A task may also have `memory`, an `nn.Module` of buffers that its loss keeps between steps. It
    moves to the device and into the checkpoints with the network, but is no part of it.
    """

    name: str
    head: nn.Module
    requires: tuple[str, ...]
    loss_weights: dict[str, float]

    def loss(
        self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream
    ) -> dict[str, Tensor]:
        """Unweighted scalar losses; publishes to `upstream[self.name]` what others may need.

        Images without this task's labels contribute nothing; a batch with none gives zeros that
        still reach every parameter of the head.
        """
        ...

    def decode(self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream) -> list[Any]:
        """B typed predictions in the pixels of the original images."""
        ...

    def metric(self, truth: CocoSplit) -> Metric:
        """A fresh metric that scores against this annotated split."""
        ...


Predictions = list[Prediction]
