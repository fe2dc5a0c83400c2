"""Caption head: pyramid levels as a memory, and a decoder that reads it word by word."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from heads.gpt2 import new_decoder, take_over
from unified.slots import Slot
from unified.trunks.features import FeatureSpec
from unified.trunks.layers import ConvNormAct

FINEST = 1 / 32
"""Shortest wave of a place, as a share of the map."""


class Words(nn.Module):
    """A decoder's last layer: states (…, width) → logits (…, words), through a slot."""

    def __init__(self, predictor: nn.Linear, slot: Slot) -> None:
        super().__init__()
        self.predictor = predictor
        self.slot = (slot,)  # in a tuple, which torch does not register: it is the head's

    def forward(self, states: Tensor) -> Tensor:
        logits: Tensor = self.slot[0](self.predictor(states.flatten(0, -2)))
        return logits.unflatten(0, states.shape[:-1])


class CaptionHead(nn.Module):
    """`memory` → (B, width, N): what is read of an image, at the N cells of the chosen levels.

    The decoder is a GPT-2 of any size with cross-attention to the memory (Radford et al. 2019;
    Vaswani et al. 2017), entered with numbers (M, L) and memory (M, N, width).

    Args:
        features: the trunk's pyramid.
        levels: names of those that are read.
        words: size of the vocabulary.
        longest: numbers of a caption at most, its start counted.
        width, layers, heads: of the decoder.
        dropout: in the decoder.
        pretrained: folder of a GPT-2 of these sizes, or its name, which the Hugging Face hub is
            asked for: what it knows of words is where the decoder starts.

    Raises:
        ConfigError: there is no such GPT-2, or it has other sizes or words.
    """

    def __init__(
        self,
        features: FeatureSpec,
        levels: Sequence[str],
        words: int,
        longest: int,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.stems = nn.ModuleDict(
            {n: ConvNormAct(features[n].channels, width, 1) for n in self.levels}
        )
        self.project = nn.Conv1d(width, width, 1)
        self.norm = nn.LayerNorm(width)  # what is seen is as loud as where
        self.level = nn.Parameter(torch.empty(len(self.levels), width, 1).normal_(0.0, 0.02))
        self.align = nn.ModuleDict({"memory": Slot(width, before=[self.project])})
        self.decoder = new_decoder(words, longest, width, layers, heads, dropout)
        predictor = self.decoder.lm_head = nn.Linear(width, words)
        nn.init.normal_(predictor.weight, std=0.02)
        if pretrained:
            take_over(pretrained, self.decoder)
        self.refine = nn.ModuleDict({"words": Slot(words, after=predictor)})
        self.decoder.lm_head = Words(predictor, self.refine["words"])

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        maps = [self.stems[name](features[name]) for name in self.levels]
        memory = self.project(self.align["memory"](torch.cat([m.flatten(2) for m in maps], 2)))
        memory = self.norm(memory.transpose(1, 2)).transpose(1, 2)
        places = [positions(m) + level for m, level in zip(maps, self.level, strict=True)]
        return {"memory": memory + torch.cat(places, 1)}


def positions(feature: Tensor) -> Tensor:
    """(C, H·W) sines and cosines of where each cell of a map (B, C, H, W) is.

    Half of the channels tell the row, half the column (Carion et al. 2020, DETR, appendix A.4), in
    shares of the map, so that levels agree, and by waves from twice its side to `FINEST` of it.
    """
    channels, height, width = feature.shape[1:]
    quarter = channels // 4
    rates = math.pi * (2 / FINEST) ** (torch.arange(quarter, device=feature.device) / quarter)
    down, across = (
        (torch.arange(side, device=feature.device) + 0.5) / side for side in (height, width)
    )
    rows = torch.outer(rates, down)[:, :, None].expand(-1, -1, width)
    columns = torch.outer(rates, across)[:, None].expand(-1, height, -1)
    angles = torch.cat([rows, columns]).flatten(1)
    return torch.cat([angles.sin(), angles.cos()]).to(feature.dtype)
