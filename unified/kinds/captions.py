"""Captions: what people say of an image, as numbers of a vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from unified.arrays import CHUNK, Ragged, offsets_of
from unified.canvas import Canvas
from unified.kinds.kind import Ask, FlatTargets, Result, Source, known_rows
from unified.kinds.objects import image_of_rows
from unified.view import View

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PADDING, START, END = "[PAD]", "[START]", "[END]"
"""Tokens that are no text, and that every vocabulary has."""


@dataclass(frozen=True)
class Vocabulary:
    """What the numbers of a caption mean.

    Attributes:
        tokenizer: json of a `tokenizers.Tokenizer` that has the tokens `PADDING`, `START`, `END`.
        longest: numbers that a caption has at most, `START` and `END` not counted.
    """

    tokenizer: str
    longest: int

    def __len__(self) -> int:
        """How many tokens there are."""
        return self._tokenizer.get_vocab_size()

    @property
    def mirrors(self) -> bool:
        """They are not known: captions speak of left and right."""
        return False

    def to_dict(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer, "longest": self.longest}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Vocabulary:
        space = cls(str(state["tokenizer"]), int(state["longest"]))
        try:
            missing = [t for t in (PADDING, START, END) if space._tokenizer.token_to_id(t) is None]
        except Exception as error:  # tokenizers raises nothing more special
            raise ValueError(f"no tokenizer: {error}") from error
        if missing or space.longest < 1:
            raise ValueError(f"tokens {missing} are missing, or captions have no length")
        return space

    def differs(self, other: Vocabulary) -> str | None:
        if self == other:
            return None
        return f"a vocabulary of {len(other)} tokens instead of {len(self)}, or other ones"

    def encode(self, texts: Iterable[str]) -> Ragged:
        """Texts → int32 numbers, without `START` and `END`."""
        rest, parts, lengths = iter(texts), [np.zeros(0, np.int32)], list[int]()
        while some := list(islice(rest, CHUNK)):
            codes = self._tokenizer.encode_batch(some, add_special_tokens=False)
            parts += [np.array(code.ids, np.int32) for code in codes]
            lengths += [len(code.ids) for code in codes]
        return Ragged(np.concatenate(parts), offsets_of(lengths))

    def text(self, tokens: Iterable[int]) -> str:
        """Numbers → the text up to `END`."""
        said: list[int] = []
        for token in tokens:
            if token == self.end:
                break
            said.append(int(token))
        return str(self._tokenizer.decode(said, skip_special_tokens=True)).strip()

    @cached_property
    def padding(self) -> int:
        """Number of `PADDING`."""
        return self._number(PADDING)

    @cached_property
    def start(self) -> int:
        """Number of `START`."""
        return self._number(START)

    @cached_property
    def end(self) -> int:
        """Number of `END`."""
        return self._number(END)

    def _number(self, token: str) -> int:
        number = self._tokenizer.token_to_id(token)
        assert number is not None, f"a vocabulary has {token}"
        return number

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self.tokenizer)
        tokenizer.encode_special_tokens = True  # a text that says [END] goes on behind it
        return tokenizer


@dataclass(frozen=True)
class CaptionLabel:
    """What is said of one image: `tokens`, a row of numbers per caption."""

    tokens: Ragged

    def __len__(self) -> int:
        return len(self.tokens)

    def seen(self, view: View, ask: CaptionAsk) -> CaptionLabel:
        """The same, whatever of the image is in view: nobody knows what it would be called."""
        return self

    @classmethod
    def joined(cls, parts: Sequence[CaptionLabel]) -> CaptionLabel:
        """Each caption is true of a part of the input."""
        lengths = np.concatenate([np.diff(part.tokens.offsets) for part in parts])
        values = np.concatenate([part.tokens.values for part in parts])
        return cls(Ragged(values, offsets_of(lengths)))

    @classmethod
    def batched(
        cls, rows: Sequence[CaptionLabel | None], ask: CaptionAsk, size: int
    ) -> CaptionTargets:
        captions = [row.tokens[i] for row in rows if row is not None for i in range(len(row))]
        tokens = np.full((len(captions), ask.longest + 2), ask.padding, np.int64)
        for place, caption in enumerate(captions):
            said = caption[: ask.longest + 1]  # one that is cut has no end
            tokens[place, 0] = ask.start
            tokens[place, 1 : 1 + len(said)] = said
            if len(said) <= ask.longest:
                tokens[place, 1 + len(said)] = ask.end
        return CaptionTargets(
            known=known_rows(rows), image=image_of_rows(rows), tokens=torch.from_numpy(tokens)
        )


@dataclass
class CaptionTargets(FlatTargets):
    """M captions of B inputs.

    Attributes:
        tokens: (M, L) int64: `START`, the caption, `END` unless it is cut, `PADDING`.
    """

    tokens: Tensor

    def shown(self, row: int) -> Caption:
        own = self.tokens[self.image == row]
        return Caption(own[0, 1:] if len(own) else self.tokens.new_zeros(0))


@dataclass(frozen=True)
class CaptionAsk(Ask):
    """What is said of the image.

    Attributes:
        longest: numbers of a caption that are kept, without `START` and `END`.
        start, end, padding: numbers of the tokens that are no text.
    """

    kind = "captions"
    seen = CaptionLabel
    space = Vocabulary

    longest: int = 32
    start: int = 1
    end: int = 2
    padding: int = 0

    @classmethod
    def of(cls, space: Vocabulary, view: str) -> CaptionAsk:
        """As a vocabulary has it."""
        return cls(view, space.longest, space.start, space.end, space.padding)


@dataclass(frozen=True)
class Caption(Result):
    """A sentence about the image.

    Attributes:
        tokens: (L,) int64, up to `END` or to the last.
    """

    kind: ClassVar[str] = CaptionAsk.kind
    panel: ClassVar[str | None] = "captions"
    layer: ClassVar[int] = 0

    tokens: Tensor

    @property
    def text(self) -> str:
        """The same in words."""
        return str(self.space.text(self.tokens.tolist()))

    def plain(self) -> str:
        """The text."""
        return self.text

    def draw(self, canvas: Canvas) -> None:
        canvas.below(self.text)


class CaptionSource(Source, Protocol):
    """A source that lends its texts."""

    def of(self, index: int) -> list[str]:
        """What people say of one image."""
        ...
