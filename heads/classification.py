"""Multi-label classification head on the pooled pyramid."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unified.slots import Slot
from unified.trunks.features import FeatureSpec
from unified.trunks.layers import ConvNormAct


class ClassCodes(nn.Module):
    """Logits as inner products with one latent code per class: (B, dim) → (B, classes).

    Behind a projection this is the paper's manifold space reduction (YOLOR, section 4.1), which
    brings the pooled feature down to one number ⟨proj(f), z_c⟩ per class.

    Attributes:
        weight: (classes, dim) the codes, which, as all codes, do not decay.
    """

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, dim).normal_(0.0, dim**-0.5))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class ClassificationHead(nn.Module):
    """Per level a 3×3 convolution, average and maximum over the map; `logits` → (B, classes).

    The maximum keeps a small object that the average over a map would drown.

    Args:
        features: the trunk's pyramid.
        classes: number of categories.
        width: channels of the convolution per level.
        classifier: `codes` (inner products with class codes) or `linear`.
        dim: width of the projection in front of the class codes.
    """

    def __init__(
        self, features: FeatureSpec, classes: int, width: int, classifier: str, dim: int
    ) -> None:
        super().__init__()
        self.levels = tuple(features)
        pooled = 2 * width * len(self.levels)
        self.stems = nn.ModuleDict(
            {n: ConvNormAct(features[n].channels, width, 3) for n in self.levels}
        )
        self.project: nn.Module
        self.classify: nn.Module
        if classifier == "codes":
            self.project, self.classify = nn.Linear(pooled, dim), ClassCodes(dim, classes)
        else:
            self.project, self.classify = nn.Identity(), nn.Linear(pooled, classes)
        first = self.project if classifier == "codes" else self.classify
        self.align = nn.ModuleDict({"pooled": Slot(pooled, before=[first])})
        self.refine = nn.ModuleDict({"logits": Slot(classes, after=self.classify)})
        # A category is absent from most images: start from that instead of from one half.
        nn.init.constant_(self.classify.bias, -math.log(max(classes - 1, 1)))  # type: ignore[arg-type]

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        maps = [self.stems[name](features[name]) for name in self.levels]
        pooled = torch.cat([m.mean((2, 3)) for m in maps] + [m.amax((2, 3)) for m in maps], 1)
        logits = self.classify(self.project(self.align["pooled"](pooled)))
        return {"logits": self.refine["logits"](logits)}
