"""Captions against what people say: BLEU, ROUGE-L, CIDEr-D, and METEOR where there is Java."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unified.kinds.captions import Caption, CaptionSource
from unified.metrics.cider import CiderD
from unified.metrics.collect import Collector, Lookup
from unified.metrics.words import has_java, split_words
from unified.view import ImageMeta

log = logging.getLogger(__name__)
BLEU = tuple(f"BLEU-{n}" for n in range(1, 5))
METEOR = "METEOR"


class CaptionScores(Collector[str]):
    """The scores of COCO's captions (Chen et al. 2015), over all images that have some.

    Texts are split by COCO's own tokeniser where Java runs, else by nltk's; `about` says which.
    METEOR is there where Java is.

    A record is a caption.
    """

    primary = "CIDEr-D"

    def __init__(self, source: CaptionSource, java: bool | None = None) -> None:
        super().__init__()
        self.source, self.known = source, Lookup(source)
        self.java = has_java() if java is None else java
        self.tokeniser = ""

    def update(self, results: Sequence[Caption], metas: Sequence[ImageMeta]) -> None:
        for meta, result in zip(metas, results, strict=True):
            if self.known[meta.image_id] is not None:
                said = result.of({result.kind: self.source.space})
                self.records[meta.image_id] = said.text

    def compute(self) -> dict[str, float]:
        records = self.sorted_records()
        names = (*BLEU, "ROUGE-L", self.primary, *([METEOR] if self.java else []))
        if not records:
            return dict.fromkeys(names, 0.0)
        said, references = self._split(records)
        keyed = {row: [text] for row, text in enumerate(said)}
        scores = {**_bleu(keyed, references), "ROUGE-L": _rouge(keyed, references)}
        own = list(references.values())
        scores[self.primary] = float(CiderD(own).score(said, own).mean())
        return scores | ({METEOR: _meteor(keyed, references)} if self.java else {})

    def _split(self, records: Mapping[Any, str]) -> tuple[list[str], dict[int, list[str]]]:
        """Captions and, by their rows, references as words."""
        places = [self.known[image] for image in records]
        references = [self.source.of(place) for place in places if place is not None]
        counts = [len(own) for own in references]
        texts = [*records.values(), *(text for own in references for text in own)]
        words, self.tokeniser = split_words(texts, self.java)
        rest = iter(words[len(records) :])
        return words[: len(records)], {
            row: [next(rest) for _ in range(count)] for row, count in enumerate(counts)
        }

    def share(self, value: float) -> float:
        """c / (1 + c): CIDEr-D has no best value that anybody reaches."""
        return value / (1 + value)

    def about(self) -> dict[str, str]:
        return {"tokeniser": self.tokeniser} if self.tokeniser else {}

    def write(self, folder: Path) -> None:
        """`captions.json`, in COCO's result format."""
        rows = [
            {"image_id": int(image), "caption": text}
            for image, text in self.sorted_records().items()
        ]
        (folder / "captions.json").write_text(json.dumps(rows))


Texts = Mapping[int, list[str]]


def _bleu(said: Texts, references: Texts) -> dict[str, float]:
    from pycocoevalcap.bleu.bleu import Bleu

    values, _ = Bleu(4).compute_score(references, said, verbose=0)
    return dict(zip(BLEU, map(float, values), strict=True))


def _rouge(said: Texts, references: Texts) -> float:
    from pycocoevalcap.rouge.rouge import Rouge

    return float(Rouge().compute_score(references, said)[0])


def _meteor(said: Texts, references: Texts) -> float:
    """NaN where Java does not run it."""
    from pycocoevalcap.meteor.meteor import Meteor

    try:
        return float(Meteor().compute_score(references, said)[0])
    except (OSError, ValueError) as error:
        log.warning("METEOR is not scored, as Java fails: %s", error)
        return float(np.nan)
