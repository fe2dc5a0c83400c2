"""Caption head: pyramid levels as a memory, and a decoder that reads it word by word."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unified.errors import ConfigError
from unified.slots import Slot
from unified.trunks.features import FeatureSpec
from unified.trunks.layers import ConvNormAct

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

FINEST = 1 / 32
"""Shortest wave of a place, as a share of the map."""
NEW = 3
"""Tokens that are no text, which a vocabulary adds to those of a tokenizer that lacks them."""


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
        self.decoder = _decoder(words, longest, width, layers, heads, dropout)
        predictor = nn.Linear(width, words)
        nn.init.normal_(predictor.weight, std=0.02)
        self.refine = nn.ModuleDict({"words": Slot(words, after=predictor)})
        if pretrained:
            _start_from(pretrained, self.decoder, predictor)
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


def _decoder(
    words: int, longest: int, width: int, layers: int, heads: int, dropout: float
) -> GPT2LMHeadModel:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes: dict[str, Any] = {"n_embd": width, "n_layer": layers, "n_head": heads}
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    marks = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=words,
            n_positions=longest,
            add_cross_attention=True,
            tie_word_embeddings=False,  # codes fold into the last layer, not into the first
            **sizes,
            **rates,
            **marks,
        )
    )


@torch.no_grad()
def _start_from(name: str, decoder: GPT2LMHeadModel, predictor: nn.Linear) -> None:
    """Take over words, places and layers; attention to an image is nothing that it has learnt."""
    from transformers import AutoConfig, GPT2LMHeadModel

    key, own = f"task.caption.pretrained={name}", decoder.config
    try:
        sizes = AutoConfig.from_pretrained(name)
        if sizes.model_type != "gpt2":
            raise ConfigError(f"{key} is a {sizes.model_type}", "name a GPT-2")
        if (sizes.n_embd, sizes.n_layer, sizes.n_head) != (own.n_embd, own.n_layer, own.n_head):
            raise ConfigError(
                f"{key} has other sizes than task.caption",
                f"use task.caption.width={sizes.n_embd} task.caption.layers={sizes.n_layer} "
                f"task.caption.heads={sizes.n_head}",
            )
        if not 0 <= own.vocab_size - sizes.vocab_size <= NEW:
            raise ConfigError(
                f"{key} knows {sizes.vocab_size} tokens, the vocabulary has {own.vocab_size}",
                "read captions with its own: data.sources.captions.tokenizer=NAME",
            )
        found = GPT2LMHeadModel.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{key} cannot be had: {str(error).splitlines()[0]}",
            "name a folder that transformers has saved, or a GPT-2 of the Hugging Face hub",
        ) from error
    mine = decoder.transformer.state_dict()
    for place, value in found.transformer.state_dict().items():
        rows = min(len(value), len(mine[place]))  # fewer places, tokens that are no text
        mine[place][:rows] = value[:rows]
    predictor.weight[: sizes.vocab_size] = found.transformer.wte.weight
