"""A decoder that attends to an image: GPT-2, new or from one that has learnt words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from unified.errors import ConfigError
from unified.kinds.captions import END, PADDING, START

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

SIZES = {"n_embd": "width", "n_layer": "layers", "n_head": "heads"}
"""Of GPT-2's configuration, and what `task.caption` calls them."""
KEPT = (
    "model_type", *SIZES, "n_inner", "activation_function", "layer_norm_epsilon",
    "scale_attn_weights", "scale_attn_by_inverse_layer_idx",
)  # fmt: skip
"""What has to be alike, so that the same weights do the same."""
ADDED = len((PADDING, START, END))
"""Tokens that are no text: a vocabulary adds those that a tokenizer lacks."""


def new_decoder(
    words: int, longest: int, width: int, layers: int, heads: int, dropout: float
) -> GPT2LMHeadModel:
    """One that has learnt nothing.

    Args:
        words: size of the vocabulary.
        longest: numbers of a caption at most, its start counted.
        width, layers, heads: sizes.
        dropout: everywhere.
    """
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
def take_over(name: str, decoder: GPT2LMHeadModel) -> None:
    """What a GPT-2 knows of words, into a new decoder; it has not learnt to attend to an image.

    Args:
        name: a folder that transformers has saved, or of the Hugging Face hub, which is asked.
        decoder: from `new_decoder`; its last layer may have a bias.

    Raises:
        ConfigError: there is no such GPT-2, it has other sizes or words, or is damaged.
    """
    from transformers import AutoConfig, GPT2LMHeadModel

    key, own = f"task.caption.pretrained={name}", decoder.config
    try:
        theirs = AutoConfig.from_pretrained(name, trust_remote_code=False)  # nor asks for it
    except Exception as error:  # transformers raises whatever its readers do
        raise _unavailable(key, error) from error
    for part in KEPT:
        ours, other = getattr(own, part), getattr(theirs, part, None)
        if ours == other or (part == "n_inner" and other == 4 * own.n_embd):
            continue
        sizes = " ".join(f"task.caption.{k}={getattr(theirs, n, 0)}" for n, k in SIZES.items())
        fix = f"use {sizes}" if part in SIZES else "name a GPT-2 as transformers makes them"
        raise ConfigError(f"{key} has {part} {other} instead of {ours}", fix)
    if not 0 <= own.vocab_size - theirs.vocab_size <= ADDED:
        raise ConfigError(
            f"{key} knows {theirs.vocab_size} tokens, the vocabulary has {own.vocab_size}",
            "read captions with its own tokenizer: data.sources.captions.tokenizer=NAME",
        )
    try:
        found, report = GPT2LMHeadModel.from_pretrained(name, output_loading_info=True)
    except Exception as error:
        raise _unavailable(key, error) from error
    if report["missing_keys"]:
        raise ConfigError(f"{key} lacks {sorted(report['missing_keys'])[0]}", "save it whole")
    for part, value in found.state_dict().items():
        if not value.isfinite().all():
            raise ConfigError(f"{key} holds {part} that is not finite", "save it anew")
    mine, known = decoder.transformer.state_dict(), found.transformer.state_dict()
    for part, value in known.items():
        rows = min(len(value), len(mine[part]))  # fewer places, tokens that are no text
        mine[part][:rows] = value[:rows]
    last: torch.nn.Linear = decoder.lm_head
    last.weight[: theirs.vocab_size] = found.lm_head.weight
    if last.bias is not None:
        last.bias.zero_()


def _unavailable(key: str, error: Exception) -> ConfigError:
    said = str(error).strip().splitlines() or [type(error).__name__]
    return ConfigError(
        f"{key} cannot be had: {said[0]}",
        "name a folder that transformers has saved, or a GPT-2 of the Hugging Face hub",
    )
