"""Captions: `captions_<split>.json`."""

from __future__ import annotations

import json
import logging
from array import array
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec
import numpy as np
import torch

from unified.arrays import Array, Ragged, offsets_of
from unified.data.coco.document import Document, Id
from unified.data.sources import Sources
from unified.errors import ConfigError, DataError
from unified.kinds.captions import (
    END,
    PADDING,
    START,
    Caption,
    CaptionAsk,
    CaptionLabel,
    Vocabulary,
)
from unified.task import space_of

log = logging.getLogger(__name__)
FIX = "an annotation needs id, image_id and caption, a text that is not empty"
SPECIAL = [PADDING, START, END]
USUAL, MOST = 99.9, 64
"""The longest caption that is kept: as long as this percentage of them, and so many tokens."""
NAMED = "name the json file of a tokenizer, its folder, or one of the Hugging Face hub"
VOCABULARY = 8192
"""Tokens of a tokenizer that is trained, at most, where nothing else is said."""
LONG = 2000
"""Signs of a caption that a tokenizer is trained on, at most."""
NOTED = 0.01
"""Share of the captions that are cut, above which somebody should know."""


class Annotation(msgspec.Struct):
    """An entry of `annotations`."""

    id: Id
    image_id: Id
    caption: str

    def __post_init__(self) -> None:
        if not self.caption.strip():
            raise ValueError("Expected a text - at `$.caption`")


class Captions:
    """The captions of a split, in the order of the file within an image.

    Args:
        sources: of the split.
        vocabulary: tokens of the tokenizer that is trained on the captions, at most; at least the
            256 bytes and three that are no text.
        tokenizer: instead of it, one that is trained already: the json file of a
            `tokenizers.Tokenizer`, a folder with `tokenizer.json`, or a name, which the Hugging
            Face hub is asked for.

    Attributes:
        first: (images + 1,) int64; image i owns texts `first[i]:first[i + 1]`.
        texts: UTF-8.
        space: the one that the sources must keep, or are offered, where there is one; else that of
            these captions.

    Raises:
        DataError: an annotation is malformed, or of an image that is not listed.
        ConfigError: there is no such tokenizer.
    """

    kind = CaptionAsk.kind

    def __init__(
        self,
        sources: Sources,
        vocabulary: Annotated[int, msgspec.Meta(ge=260, le=1 << 20)] = VOCABULARY,
        tokenizer: str | None = None,
    ) -> None:
        self.file = self.json(sources)
        document = Document(self.file, lists=("images", "annotations"))
        self.images = document.images(sources.image_split)
        self._read(document)
        self.known: Array = np.diff(self.first) > 0
        known = sources.spaces.get(self.kind)
        if known is not None:
            self.space = cast(Vocabulary, known)
        elif tokenizer is None and self.kind in sources.offered:
            self.space = space_of(CaptionAsk, sources.offered[self.kind])
        else:
            self.space = self._space(vocabulary, tokenizer)
        asked = tokenizer is None and vocabulary != VOCABULARY
        if asked and len(self.space) > vocabulary:
            raise ConfigError(
                f"data.sources.captions.vocabulary={vocabulary}, but the network that is there has "
                f"learnt {len(self.space)} tokens",
                "leave it out",
            )

    @staticmethod
    def json(sources: Sources) -> Path:
        """Where the json is."""
        return sources.json("captions")

    def _read(self, document: Document) -> None:
        place = {int(key): row for row, key in enumerate(self.images.ids)}
        rows, texts = array("q"), []
        for annotation in document.entries("annotations", Annotation, FIX):
            if annotation.image_id not in place:
                raise document.refuse(
                    f"annotation {annotation.id}",
                    f"it names image {annotation.image_id}, which the file does not list",
                    "list every image, or drop the annotation",
                )
            rows.append(place[annotation.image_id])
            texts.append(annotation.caption)
        order = np.argsort(np.asarray(rows, np.int64), kind="stable")
        counts = np.bincount(np.asarray(rows, np.int64), minlength=len(self.images))
        self.first: Array = offsets_of(counts)
        self.texts = Ragged.of_texts(texts[row] for row in order)

    def _space(self, size: int, tokenizer: str | None) -> Vocabulary:
        own = json_of(tokenizer) if tokenizer else trained_on(self._texts(), size)
        try:
            self.tokens = Vocabulary(own, 1).encode(self._texts())
        except Exception as error:  # tokenizers raises nothing more special
            raise ConfigError(
                f"data.sources.captions.tokenizer={tokenizer} cannot read these captions: {error}",
                "use one that knows every sign, as those of bytes do",
            ) from error
        lengths = np.diff(self.tokens.offsets)
        longest = int(np.percentile(lengths, USUAL, method="higher")) if len(lengths) else 1
        return Vocabulary(own, min(max(longest, 1), MOST))

    def _texts(self) -> Iterator[str]:
        return map(self.texts.text, range(len(self.texts)))

    def of(self, index: int) -> list[str]:
        """The captions of one image."""
        return [self.texts.text(row) for row in range(self.first[index], self.first[index + 1])]

    @cached_property
    def tokens(self) -> Ragged:
        """The captions in numbers of the space."""
        return self.space.encode(self._texts())

    def read(self, index: int) -> CaptionLabel:
        begin, end = self.first[index], self.first[index + 1]
        offsets = self.tokens.offsets[begin : end + 1]
        values = self.tokens.values[offsets[0] : offsets[-1]]
        return CaptionLabel(Ragged(values, offsets - offsets[0]))

    def files(self) -> list[Path]:
        return []

    def check(self, learn: bool) -> None:
        if not self.known.any():
            raise DataError(
                f"{self.file} has no captions",
                "add some, or leave out the tasks that need them: task=[…]",
            )
        if learn:
            cut = float((np.diff(self.tokens.offsets) > self.space.longest).mean())
            if cut > NOTED:
                log.warning(
                    "%s: of %.0f %% of the captions only the first %d tokens are learnt from",
                    self.file, 100 * cut, self.space.longest,
                )  # fmt: skip

    def truth(self) -> dict[str, Any]:
        """COCO's json."""
        document: dict[str, Any] = json.loads(self.file.read_text())
        return document

    def result(self, index: int) -> Caption:
        """The first caption."""
        return Caption(torch.from_numpy(self.read(index).tokens[0].astype(np.int64)))


def trained_on(texts: Iterator[str], size: int) -> str:
    """Json of a tokenizer trained on texts: byte pairs of lower case (Sennrich et al. 2016)."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Lowercase(), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    # What has no blanks is one word, and a long one takes the square of its length.
    tokenizer.train_from_iterator((text[:LONG] for text in texts), trainer)
    return str(tokenizer.to_str())


def json_of(name: str) -> str:
    """Json of a tokenizer that is trained already, with the tokens that are no text.

    Raises:
        ConfigError: there is no such file, and the hub does not have it either.
    """
    from tokenizers import Tokenizer

    said = f"data.sources.captions.tokenizer={name}"
    path = Path(name)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file() and (path.exists() or path.suffix == ".json" or path.is_absolute()):
        raise ConfigError(f"{said}: there is no file {file}", NAMED)
    try:
        known = file.is_file()
        tokenizer = Tokenizer.from_file(str(file)) if known else Tokenizer.from_pretrained(name)
    except Exception as error:  # tokenizers raises nothing more special
        raise ConfigError(f"{said} cannot be had: {error}", NAMED) from error
    numbers = tokenizer.get_vocab().values()
    if max(numbers, default=-1) >= len(numbers):
        raise ConfigError(f"{said} leaves out numbers below {max(numbers)}", "number all tokens")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.add_special_tokens(SPECIAL)
    return str(tokenizer.to_str())
