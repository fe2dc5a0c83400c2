"""The few layers that trunks and heads are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "mish": nn.Mish, "relu": nn.ReLU}


class ConvNormAct(nn.Module):
    """Convolution without bias, batch norm, activation: (B, C_in, H, W) → (B, C_out, H/s, W/s)."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int = 1,
        stride: int = 1,
        activation: str = "silu",
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(c_out, eps=1e-4, momentum=0.03)
        self.act = ACTIVATIONS[activation](inplace=True)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out

    @torch.no_grad()
    def fuse(self) -> None:
        """Fold the batch norm into the convolution; for inference only."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv.eval(), self.norm.eval())
            self.norm = nn.Identity()


class Residual(nn.Module):
    """x + 3×3(1×1(x)), the bottleneck of Darknet."""

    def __init__(self, channels: int, hidden: int, activation: str = "silu") -> None:
        super().__init__()
        self.reduce = ConvNormAct(channels, hidden, 1, activation=activation)
        self.expand = ConvNormAct(hidden, channels, 3, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.expand(self.reduce(x))
        return out


def plain_pairs(channels: int, count: int, activation: str) -> nn.Sequential:
    """`count` times (1×1, 3×3) at constant width, without shortcut."""
    layers = []
    for _ in range(count):
        layers.append(ConvNormAct(channels, channels, 1, activation=activation))
        layers.append(ConvNormAct(channels, channels, 3, activation=activation))
    return nn.Sequential(*layers)
