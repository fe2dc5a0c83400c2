"""Sequences, number by number, from a decoder that reads a memory; what they mean is not known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import GenerationMixin


@dataclass(frozen=True)
class Marks:
    """Numbers that begin, end and fill up a sequence, and how many others it has at most."""

    start: int
    end: int
    padding: int
    longest: int


def search(
    decoder: GenerationMixin,
    memory: Tensor,
    marks: Marks,
    beams: int = 1,
    length_penalty: float = 1.0,
    cache: bool = True,
) -> Tensor:
    """The most probable sequences: greedy, or by several beams.

    Args:
        decoder: of `transformers`, with cross-attention.
        memory: (B, C, N).
        marks: of the sequences.
        beams: followed at a time.
        length_penalty: power of the length by which a beam's log-probability is divided.
        cache: keep keys and values of earlier numbers.

    Returns:
        (B, L) int64, behind `start`, `padding` behind `end`; L is that of the longest.
    """
    options = {"num_beams": beams, "length_penalty": length_penalty} if beams > 1 else {}
    return _generate(decoder, memory, marks, do_sample=False, use_cache=cache, **options)


def sample(decoder: GenerationMixin, memory: Tensor, marks: Marks) -> Tensor:
    """Sequences drawn by their probabilities, as `search` gives them."""
    return _generate(decoder, memory, marks, do_sample=True, top_k=0, use_cache=True)


@torch.no_grad()
def _generate(decoder: Any, memory: Tensor, marks: Marks, **options: Any) -> Tensor:
    from transformers import GenerationConfig

    config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=marks.start,
        eos_token_id=marks.end,
        pad_token_id=marks.padding,
        suppress_tokens=[marks.start, marks.padding],
        max_new_tokens=marks.longest + 1,
        **options,
    )
    begin = torch.full((len(memory), 1), marks.start, device=memory.device)
    with _evaluating(decoder):
        found: Tensor = decoder.generate(
            input_ids=begin,
            attention_mask=torch.ones_like(begin),
            encoder_hidden_states=memory.transpose(1, 2).contiguous(),
            generation_config=config,
        )
    ended = (found[:, 1:] == marks.end).cumsum(1) - (found[:, 1:] == marks.end).long()
    return found[:, 1:].masked_fill(ended > 0, marks.padding)  # beams fill up with `end`


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
