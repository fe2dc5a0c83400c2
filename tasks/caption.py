"""Captioning: a sentence about the image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from msgspec import Meta
from torch import Tensor
from torch.nn import functional as F

from heads.caption import CaptionHead
from unified.batch import Batch
from unified.bounds import Count, Name, NonNegative, Part
from unified.errors import ConfigError
from unified.kinds.captions import (
    Caption,
    CaptionAsk,
    CaptionSource,
    CaptionTargets,
    Vocabulary,
)
from unified.ops.generation import Marks, sample, search
from unified.task import DataSpec, Losses, Mean, Metric, Task, Upstream
from unified.trunks.features import FeatureSpec, check_levels

WEAK = "weak"
"""The view that captions are true of: nearly the whole image, not mirrored."""


class Captioning(Task):
    """A decoder that reads chosen levels of the pyramid and says one token after the other.

    Args:
        features, data: what trunk and data set publish.
        levels: of the pyramid that the decoder reads.
        width, layers, heads: of the decoder.
        dropout: in the decoder.
        pretrained: a GPT-2 of these sizes that the decoder starts from: a folder that transformers
            has saved, or a name, which the Hugging Face hub is asked for; captions are then read by
            its tokenizer, `data.sources.captions.tokenizer`.
        smoothing: share of the probability that is spread over all tokens in training.
        max_captions: per batch and process that enter the loss, sampled ones apart; a random choice
            beyond that.
        beams: followed at a time when a caption is made; 1 is greedy.
        length_penalty: power of the length by which a beam's log-probability is divided.
        scst: learn from CIDEr-D of sampled captions, from a trained network on.
        samples: captions of each image that are sampled for `scst`.
        baseline: what these are compared with: the `others` of their image, or the `greedy` one.
        view: in which it learns.
        loss_weights: fixed weight of `words`.
    """

    name = "caption"
    truth = CaptionAsk
    losses = ("words",)
    meaning = ("levels", "heads")
    relearns = "scst"

    def __init__(
        self,
        features: FeatureSpec,
        data: DataSpec,
        levels: Annotated[Sequence[Name], Meta(min_length=1)] = ("p4", "p5"),
        width: Count = 256,
        layers: Count = 3,
        heads: Count = 4,
        dropout: Part = 0.1,
        pretrained: str | None = None,
        smoothing: Part = 0.1,
        max_captions: Count = 128,
        beams: Annotated[int, Meta(ge=1, le=100)] = 5,
        length_penalty: Annotated[float, Meta(ge=0, le=10)] = 1.0,
        scst: bool = False,
        samples: Annotated[int, Meta(ge=1, le=100)] = 5,
        baseline: Literal["others", "greedy"] = "others",
        view: Name = WEAK,
        loss_weights: Mapping[str, NonNegative] | None = None,
    ) -> None:
        super().__init__()
        check_levels("task.caption.levels", levels, features)
        if len(set(levels)) < len(levels):
            raise ConfigError(
                f"task.caption.levels=[{','.join(levels)}] names a level twice", "name each once"
            )
        if width % heads or width % 4:
            raise ConfigError(
                f"task.caption.width={width} is not shared evenly by {heads} heads, or no multiple "
                "of 4",
                f"use {4 * heads * max(1, round(width / 4 / heads))}",
            )
        if samples == 1 and baseline == "others":
            raise ConfigError(
                "task.caption.samples=1 leaves no others to compare with",
                "use 2 or more, or task.caption.baseline=greedy",
            )
        space: Vocabulary = data.space(CaptionAsk)
        self.asks = (CaptionAsk.of(space, view),)
        self.space = space
        self.marks = Marks(space.start, space.end, space.padding, space.longest)
        self.head = CaptionHead(
            features, levels, len(space), space.longest + 1, width, layers, heads, dropout,
            pretrained,
        )  # fmt: skip
        source = data.source(CaptionAsk) if scst else None
        self.reward = None if source is None else Reward(space, source)
        self.smoothing, self.max_captions = smoothing, max_captions
        self.samples, self.baseline = samples, baseline
        self.beams, self.length_penalty = beams, length_penalty
        self.loss_weights = dict(loss_weights or {})

    def loss(
        self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream
    ) -> tuple[Losses, None]:
        """Mean over tokens; reads tokens (M, L) of the targets `captions`.

        Cross-entropy of every next one, smoothed; with `scst`, what `_reinforce` says.
        """
        targets: CaptionTargets = batch.labels["captions"]  # type: ignore[assignment]
        if self.reward is not None:
            return {"words": self._reinforce(outputs["memory"], targets, self.reward)}, None
        image, tokens = self._chosen(targets)
        logits = self._logits(outputs["memory"], image, tokens)
        total = F.cross_entropy(
            logits.flatten(0, 1),
            tokens[:, 1:].flatten(),
            ignore_index=self.marks.padding,
            label_smoothing=self.smoothing,
            reduction="sum",
        )
        return {"words": Mean(total, (tokens[:, 1:] != self.marks.padding).sum())}, None

    def _chosen(self, targets: CaptionTargets) -> tuple[Tensor, Tensor]:
        """Images (M,) and tokens (M, L) that are learnt from.

        Of a batch without captions, one that is all padding: the decoder is always reached.
        """
        image, tokens = targets.image, targets.tokens
        if len(image) > self.max_captions:
            chosen = torch.randperm(len(image), device=image.device)[: self.max_captions]
            image, tokens = image[chosen], tokens[chosen]
        if not len(image):
            image = image.new_zeros(1)
            tokens = tokens.new_full((1, tokens.shape[1]), self.marks.padding)
        return image, tokens

    def _reinforce(self, memory: Tensor, targets: CaptionTargets, reward: Reward) -> Mean:
        """Sampled captions become likelier by how much better they are than others.

        −(r(w) − b) log p(w) (Rennie et al. 2017, SCST, equation 6). r is CIDEr-D, which the host
        computes; b is what `_baselines` says.
        """
        image = torch.arange(len(memory), device=memory.device).repeat_interleave(self.samples)
        drawn = sample(self.head.decoder, memory[image], self.marks)
        rewards = reward(drawn, image, targets).view(-1, self.samples)
        better = (rewards - self._baselines(rewards, memory, targets, reward)).view(-1, 1)
        tokens = torch.cat([drawn.new_full((len(drawn), 1), self.marks.start), drawn], 1)
        logits = self._logits(memory, image, tokens)
        surprise = F.cross_entropy(logits.flatten(0, 1), drawn.flatten(), reduction="none")
        said = (drawn != self.marks.padding) & targets.known[image, None]
        return Mean((better * surprise.view_as(drawn) * said).sum(), said.sum())

    def _baselines(
        self, rewards: Tensor, memory: Tensor, targets: CaptionTargets, reward: Reward
    ) -> Tensor:
        """(B, S) or (B, 1): what the rewards (B, S) of an image's samples have to exceed.

        The mean of the others (Luo 2020, "A better variant of self-critical sequence training"), or
        that of the greedy caption, as SCST was published: a pass more, and better than nearly all
        samples of a network that has learnt smoothed targets.
        """
        if self.baseline == "others":
            return (rewards.sum(1, keepdim=True) - rewards) / (self.samples - 1)
        image = torch.arange(len(memory), device=memory.device)
        greedy = search(self.head.decoder, memory, self.marks)
        return reward(greedy, image, targets).view(-1, 1)

    def _logits(self, memory: Tensor, image: Tensor, tokens: Tensor) -> Tensor:
        """(M, L - 1, words) float32: what comes next, behind each of the tokens (M, L)."""
        read = memory[image].transpose(1, 2).contiguous()
        found: Tensor = self.head.decoder(
            input_ids=tokens[:, :-1], encoder_hidden_states=read, use_cache=False
        ).logits
        return found.float()

    def keep(self, outputs: Mapping[str, Tensor], upstream: Upstream) -> Tensor:
        """(B, L) tokens of the best captions."""
        decoder, memory = self.head.decoder, outputs["memory"]
        return search(decoder, memory, self.marks, self.beams, self.length_penalty)

    def finish(self, kept: Tensor, batch: Batch, upstream: Upstream) -> list[Caption]:
        return [Caption(tokens) for tokens in kept.cpu()]

    def metric(self, source: CaptionSource) -> Metric:
        from unified.metrics.captioning import CaptionScores

        return CaptionScores(source)


class Reward:
    """CIDEr-D of captions in training, by how rare words are in all training captions.

    Args:
        space: what tokens mean.
        source: the captions to learn from.
    """

    def __init__(self, space: Vocabulary, source: CaptionSource) -> None:
        from unified.metrics.cider import CiderD

        self.space = space
        places = range(len(source.images))
        self.cider = CiderD(self._words(source.of(place)) for place in places)

    def __deepcopy__(self, memo: dict[int, Any]) -> Reward:
        return self  # what was counted does not change

    def __call__(self, tokens: Tensor, image: Tensor, targets: CaptionTargets) -> Tensor:
        """(M,) scores of captions (M, L) of the inputs (M,) against what is told of these."""
        own: list[list[str]] = [[] for _ in range(len(targets.known))]
        told = self._words(map(self.space.text, targets.tokens[:, 1:].tolist()))
        for place, text in zip(targets.image.tolist(), told, strict=True):
            own[place].append(text)
        said = self._words(map(self.space.text, tokens.tolist()))
        scores = self.cider.score(said, [own[place] for place in image.tolist()])
        return torch.from_numpy(scores).to(tokens.device, torch.float32)

    @staticmethod
    def _words(texts: Iterable[str]) -> list[str]:
        from unified.metrics.words import split_words

        return split_words(list(texts), java=False)[0]
