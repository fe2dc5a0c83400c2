"""Multi-label classification head on the pooled pyramid."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unified.protocols import Head
from unified.specs import FeatureSpec
from unified.trunks.layers import ConvNormAct


class ClassCodes(nn.Module):
    """Logits as inner products ⟨proj(f), z_c⟩ with one latent code per class.

    The paper's manifold space reduction (YOLOR, section 4.1): the projection and the inner
    product bring the C_in-dimensional feature down to one number per class.
    """

    def __init__(self, c_in: int, classes: int, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(c_in, dim)
        self.codes = nn.Parameter(torch.empty(classes, dim).normal_(0.0, dim**-0.5))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x) @ self.codes.T + self.bias


class ClassificationHead(Head):
    """Stem: 3×3 convolution per level, average and max pooling, concatenation.

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
        self.stem_widths = {"pooled": pooled}
        self.output_widths = {"logits": classes}
        self.stems = nn.ModuleDict(
            {n: ConvNormAct(features[n].channels, width, 3) for n in self.levels}
        )
        self.classifier: nn.Module = (
            ClassCodes(pooled, classes, dim)
            if classifier == "codes"
            else nn.Linear(pooled, classes)
        )
        # A category is absent from most images: start from that instead of from one half.
        nn.init.constant_(self.classifier.bias, -math.log(max(classes - 1, 1)))

    @property
    def links(self) -> dict[str, tuple[str, nn.Module]]:
        linear = isinstance(self.classifier, nn.Linear)
        return {"logits": ("pooled", self.classifier)} if linear else {}

    def stem(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        maps = [self.stems[name](features[name]) for name in self.levels]
        pooled = [m.mean((2, 3)) for m in maps] + [m.amax((2, 3)) for m in maps]
        return {"pooled": torch.cat(pooled, 1)}

    def predict(self, stems: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": self.classifier(stems["pooled"])}
