"""CIDEr-D, as a score of results and as a reward of training."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from unified.arrays import Array

LONGEST, SIGMA, SCALE = 4, 6.0, 10.0
"""Words of an n-gram at most; spread of lengths that agree; the best score."""
Gram = tuple[str, ...]


@dataclass(frozen=True)
class Weighted:
    """A sentence as vectors, one for each length of n-grams.

    Attributes:
        weights: n-gram → its weight.
        norms: Euclidean.
        pairs: how many pairs of neighbours it has, which stands for its length.
    """

    weights: list[dict[Gram, float]]
    norms: list[float]
    pairs: int


class CiderD:
    """How well a caption agrees with what people say of an image, from 0 to 10.

    An n-gram that many images share weighs less; how many is counted once, over a corpus. Weights
    above a reference's own are cut to these, and other lengths score less (Vedantam et al. 2015,
    CIDEr, equations 1 to 3 and 5, 6). Equal to the scorer of COCO's captions, which counts within
    the images that it scores, and so cannot tell a reward of a few.

    Args:
        corpus: per image, what people say of it, as words with spaces in between.
    """

    def __init__(self, corpus: Iterable[Sequence[str]]) -> None:
        self.images, self.frequency = 0, Counter[Gram]()
        for own in corpus:
            self.images += 1
            self.frequency.update({gram for text in own for gram in grams_of(text)})

    def score(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> Array:
        """(N,) of N captions, each against its references; 0 where it has none."""
        scores = np.zeros(len(captions))
        for row, (caption, own) in enumerate(zip(captions, references, strict=True)):
            said = self._weigh(caption)
            agreement = [_agreement(said, self._weigh(text)) for text in own]
            if agreement:
                scores[row] = SCALE * sum(agreement) / len(agreement)
        return scores

    def _weigh(self, text: str) -> Weighted:
        weights: list[dict[Gram, float]] = [{} for _ in range(LONGEST)]
        counts = Counter(grams_of(text))
        rarest = math.log(max(self.images, 1))
        for gram, count in counts.items():
            common = math.log(max(self.frequency.get(gram, 0), 1))
            weights[len(gram) - 1][gram] = count * (rarest - common)
        norms = [math.sqrt(sum(w * w for w in own.values())) for own in weights]
        return Weighted(weights, norms, sum(n for gram, n in counts.items() if len(gram) == 2))


def grams_of(text: str) -> list[Gram]:
    """All runs of one to four words."""
    words = text.split()
    return [
        tuple(words[i : i + n]) for n in range(1, LONGEST + 1) for i in range(len(words) - n + 1)
    ]


def _agreement(said: Weighted, reference: Weighted) -> float:
    """Mean over the lengths of n-grams of the cosine of what both have."""
    total = 0.0
    for own, other, a, b in zip(
        said.weights, reference.weights, said.norms, reference.norms, strict=True
    ):
        both = sum(min(w, other[gram]) * other[gram] for gram, w in own.items() if gram in other)
        total += both / (a * b) if a and b else both
    apart = said.pairs - reference.pairs
    return total / LONGEST * math.exp(-(apart**2) / (2 * SIGMA**2))
