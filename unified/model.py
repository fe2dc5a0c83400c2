"""The whole network: trunk → heads, each with its task's codes in its slots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from unified.batch import Batch, positions
from unified.slots import Slot
from unified.task import Losses, Results, Task, Upstream
from unified.trunks.layers import ConvNormAct

Outputs = dict[str, dict[str, Tensor]]


class UnifiedModel(nn.Module):
    """F(x, θ, Z, Φ, Ψ) of YOLOR's equation 4.

    Args:
        trunk: publishes `features` and maps images to the pyramid.
        tasks: name → task, in the order in which they run; their heads read the pyramid.
    """

    def __init__(self, trunk: nn.Module, tasks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.trunk = trunk
        self.tasks = nn.ModuleDict(tasks)

    def forward(self, images: Tensor) -> Outputs:
        """Run every task.

        Args:
            images: (B, 3, H, W), uint8 or float in [0, 1]; H and W multiples of the coarsest
                stride.

        Returns:
            Task name → output name → tensor with channels on axis 1.
        """
        return self.discriminate(dict.fromkeys(self.tasks, self.extract(images)))

    def extract(self, images: Tensor) -> dict[str, Tensor]:
        """The explicit representation f_θ(x): level name → (B, C, H/stride, W/stride)."""
        if images.dtype == torch.uint8:
            images = images.to(next(self.parameters()).dtype) / 255
        features: dict[str, Tensor] = self.trunk(
            images.contiguous(memory_format=torch.channels_last)
        )
        return features

    def discriminate(
        self,
        features: Mapping[str, Mapping[str, Tensor]],
        rows: Mapping[str, list[int] | None] | None = None,
    ) -> Outputs:
        """Every task's head, on the inputs that it sees.

        Args:
            features: task name → those of all inputs that its head reads.
            rows: task name → positions of its inputs, None for all.
        """
        return {
            name: task.head(_take(features[name], rows.get(name) if rows else None))
            for name, task in self.named_tasks().items()
        }

    def named_tasks(self) -> dict[str, Task]:
        """Name → task, in the order in which they run."""
        return cast("dict[str, Task]", dict(self.tasks.items()))

    def losses(
        self, outputs: Outputs, batch: Batch, rows: Mapping[str, list[int] | None]
    ) -> dict[str, Losses]:
        """Every task's losses, of the inputs that it sees.

        Args:
            outputs: of the tasks, each on its inputs.
            batch: all inputs, and what is known of them.
            rows: task name → positions of its inputs, None for all.
        """
        upstream = Upstream()
        losses = {}
        for name, task in self.named_tasks().items():
            upstream.add(*task.shares(outputs[name]))
            losses[name], published = task.loss(outputs[name], batch.see(rows[name]), upstream)
            if published is not None:
                upstream.add(published)
        return losses

    def decode(self, outputs: Outputs, batch: Batch) -> Results:
        """Every task's results, one per input that it sees in validation or prediction."""
        upstream = Upstream()
        kept, results = {}, {}
        for name, task in self.named_tasks().items():
            upstream.add(*task.shares(outputs[name]))
            kept[name] = task.keep(outputs[name], upstream)
            if isinstance(kept[name], task.publishes):
                upstream.add(kept[name])
        for name, task in self.named_tasks().items():
            own = batch.see(batch.rows(task.checked_views))
            results[name] = task.finish(kept[name], own, upstream)
        return results

    @torch.no_grad()
    def fuse(self) -> UnifiedModel:
        """Fold batch norms, and constant codes beside a linear layer, into weights.

        For inference only, in place. Returns self.
        """
        self.eval()
        for module in list(self.modules()):
            if isinstance(module, ConvNormAct):
                module.fuse()
            elif isinstance(module, Slot):
                module.fold()
        return self


def _take(features: Mapping[str, Tensor], rows: list[int] | None) -> Mapping[str, Tensor]:
    if rows is None:
        return features
    chosen = positions(rows, next(iter(features.values())).device)
    return {name: feature[chosen] for name, feature in features.items()}
