"""Slots: the named places in a head where a code may act."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


class Slot(nn.Module):
    """The identity, without parameter or key, until the bank fills it with a code.

    A head keeps its slots in the containers `align`, before a last layer, and `refine`, after it;
    `align.p3` is then the name of a slot.

    Args:
        width: channels, on axis 1, of what passes through.
        before: linear layers, all that read what passes here; a constant code folds into them.
        after: the linear layer whose output passes here; a constant code folds into it.
    """

    code: nn.Module | None

    def __init__(
        self, width: int, before: Sequence[nn.Module] = (), after: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.width = width
        self.register_module("code", None)
        # In tuples, which torch does not register: the layers belong to the head.
        self.before = tuple(before)
        self.after = () if after is None else (after,)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, …) → the same shape."""
        if self.code is None:
            return x
        out: Tensor = self.code(x)
        return out

    @torch.no_grad()
    def fold(self) -> None:
        """Turn a constant code into weights of its linear neighbours; others stay.

        x ⋆ g(z) = scale·x + shift, so that W(scale·x + shift) + b has the weights W·scale and the
        bias b + W·shift, and scale·(Wx + b) + shift the weights scale·W and the bias
        scale·b + shift (YOLOR, arXiv 2105.04206, equation 3).
        """
        if self.code is None or not self.code.constant or not (self.before or self.after):
            return
        scale, shift = self.code.affine()  # type: ignore[operator]
        for layer in self.before:
            _fold_before(layer, scale, shift)
        for layer in () if self.before else self.after:
            _fold_after(layer, scale, shift)
        self.code = None


def slots_of(head: nn.Module) -> Iterator[tuple[str, Slot]]:
    """`align.<name>` or `refine.<name>`, and the slot, in the order of the head."""
    for name, module in head.named_modules():
        if isinstance(module, Slot):
            yield name, module


def _fold_before(layer: nn.Module, scale: Tensor, shift: Tensor) -> None:
    weight, bias = _linear(layer)
    flat = weight.flatten(1)
    bias += flat @ shift
    weight.copy_((flat * scale if scale.ndim == 1 else flat @ scale).view_as(weight))


def _fold_after(layer: nn.Module, scale: Tensor, shift: Tensor) -> None:
    weight, bias = _linear(layer)
    matrix = torch.diag(scale) if scale.ndim == 1 else scale
    weight.copy_((matrix @ weight.flatten(1)).view_as(weight))
    bias.copy_(matrix @ bias + shift)


def _linear(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight (out, in, 1…) and bias (out,) of a linear layer or 1×1 convolution."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if layer.bias is None:
        layer.bias = nn.Parameter(weight.new_zeros(len(weight)))
    assert isinstance(layer.bias, Tensor)
    return weight, layer.bias
