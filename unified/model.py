"""The whole network: trunk → stem → align → predict → refine, for every task."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unified.implicit import ImplicitBank
from unified.protocols import Head
from unified.trunks.layers import ConvNormAct

Outputs = dict[str, dict[str, Tensor]]


class UnifiedModel(nn.Module):
    """F(x, θ, Z, Φ, Ψ) of YOLOR's equation 4.

    Args:
        trunk: publishes `features` and maps images to the pyramid.
        heads: task name → discriminator, in the order in which tasks run.
        bank: implicit codes, or None for the arm without codes.
    """

    def __init__(
        self, trunk: nn.Module, heads: Mapping[str, Head], bank: ImplicitBank | None
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleDict(heads)
        if bank is not None:
            self.bank = bank

    def forward(self, images: Tensor) -> Outputs:
        """Run every task.

        Args:
            images: (B, 3, H, W), uint8 or float in [0, 1]; H and W multiples of 32.

        Returns:
            Task name → output name → tensor with channels on axis 1.
        """
        return self.discriminate(self.extract(images))

    def extract(self, images: Tensor) -> dict[str, Tensor]:
        """The explicit representation f_θ(x): level name → (B, C, H/stride, W/stride)."""
        if images.dtype == torch.uint8:
            images = images.to(next(self.parameters()).dtype) / 255
        features: dict[str, Tensor] = self.trunk(
            images.contiguous(memory_format=torch.channels_last)
        )
        return features

    def discriminate(self, features: Mapping[str, Tensor]) -> Outputs:
        """Every task's head, with its codes, on the same features."""
        return {task: self._run_head(task, features) for task in self.heads}

    def _run_head(self, task: str, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        head: Head = self.heads[task]  # type: ignore[assignment]
        bank: ImplicitBank | None = getattr(self, "bank", None)
        stems = head.stem(features)
        if bank is None:
            return head.predict(stems)
        return bank.refine(task, head.predict(bank.align(task, stems)))

    @torch.no_grad()
    def fuse(self) -> UnifiedModel:
        """Fold batch norms and, where a linear layer follows or precedes, codes into weights.

        For inference only, in place. Codes beside a computation that is not one linear layer
        stay where they are. Returns self.
        """
        self.eval()
        for module in list(self.modules()):
            if isinstance(module, ConvNormAct):
                module.fuse()
        bank: ImplicitBank | None = getattr(self, "bank", None)
        if bank is not None:
            for task, head in self.heads.items():
                _fold_codes(bank, task, head)  # type: ignore[arg-type]
            if not list(bank.sites()):
                del self.bank
        return self


def _fold_codes(bank: ImplicitBank, task: str, head: Head) -> None:
    links = head.links
    for stem in head.stem_widths:
        outputs = [name for name, (source, _) in links.items() if source == stem]
        affine = bank.pop(task, "align", stem) if outputs else None
        if affine is not None:
            for name in outputs:
                _fold_before(links[name][1], *affine)
    for name, (_, layer) in links.items():
        affine = bank.pop(task, "refine", name)
        if affine is not None:
            _fold_after(layer, *affine)


def _fold_before(layer: nn.Module, scale: Tensor, shift: Tensor) -> None:
    """layer(scale·x + shift) as layer(x): W' = W·scale, b' = b + W·shift (YOLOR, eq. 3)."""
    weight = layer.weight.flatten(1)  # type: ignore[operator,union-attr]
    layer.bias += weight @ shift  # type: ignore[operator]
    folded = weight * scale if scale.ndim == 1 else weight @ scale
    layer.weight.copy_(folded.view_as(layer.weight))  # type: ignore[operator,union-attr,arg-type]


def _fold_after(layer: nn.Module, scale: Tensor, shift: Tensor) -> None:
    """scale·layer(x) + shift as layer(x): W' = diag(scale)·W, b' = scale·b + shift."""
    weight = layer.weight.flatten(1)  # type: ignore[operator,union-attr]
    layer.weight.copy_((weight * scale[:, None]).view_as(layer.weight))  # type: ignore[operator,union-attr,arg-type]
    layer.bias.copy_(layer.bias * scale + shift)  # type: ignore[operator,union-attr]
