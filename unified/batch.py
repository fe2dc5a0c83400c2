"""What the network sees in one step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from unified.kinds.kind import Targets
from unified.view import ImageMeta


@dataclass
class Batch:
    """B inputs and what is known of them, for the kinds that tasks ask for.

    Attributes:
        images: (B, 3, S, S) uint8 RGB, channels_last in memory.
        metas: where each input came from, and in which view it is seen.
        labels: kind → targets.
    """

    images: Tensor
    metas: list[ImageMeta]
    labels: Mapping[str, Targets] = field(default_factory=dict)

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same with every tensor changed."""
        labels = {kind: targets.map(change) for kind, targets in self.labels.items()}
        return replace(self, images=change(self.images), labels=labels)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same on another device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Page-locked tensors, so that the copy to the accelerator overlaps with its work."""
        return self.map(lambda tensor: tensor.pin_memory())

    def rows(self, views: Collection[str]) -> list[int] | None:
        """Positions of the inputs in these views; None where all are."""
        rows = [row for row, meta in enumerate(self.metas) if meta.view in views]
        return None if len(rows) == len(self.metas) else rows

    def see(self, rows: list[int] | None) -> Batch:
        """The inputs `rows` alone; None are all."""
        if rows is None:
            return self
        chosen = positions(rows, self.images.device)
        return Batch(
            images=self.images[chosen],
            metas=[self.metas[row] for row in rows],
            labels={kind: targets.take(chosen) for kind, targets in self.labels.items()},
        )


def positions(rows: list[int], device: torch.device) -> Tensor:
    """Rows as an index on a device, which is not waited for."""
    index = torch.tensor(rows, dtype=torch.long)
    if device.type == "cuda":
        index = index.pin_memory()
    return index.to(device, non_blocking=True)
