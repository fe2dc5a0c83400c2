"""The contract of a kind: Space, Label, Targets, Ask, Source, Result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import msgspec
import torch
from torch import Tensor

from unified.arrays import Array, Json, Ragged
from unified.canvas import Canvas
from unified.view import View

if TYPE_CHECKING:
    from typing_extensions import Self

STRONG = "strong"
"""Name of the view that tasks learn from unless they say otherwise."""


class Space(Protocol):
    """What a kind's numbers mean; it travels in checkpoints as plain containers.

    Attributes:
        mirrors: whether the labels of a mirror image are known.
    """

    @property
    def mirrors(self) -> bool: ...

    def to_dict(self) -> dict[str, Any]:
        """Plain containers."""
        ...

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`, also after a trip through json."""
        ...

    def differs(self, other: Any) -> str | None:
        """What makes labels of another space useless in this one; None where they serve."""
        ...


@dataclass(frozen=True)
class Categories:
    """The categories of a kind, in the order of a network's outputs.

    Attributes:
        ids: category ids as the annotations have them; the position is the class index.
        names: category names, same order.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def mirrors(self) -> bool:
        """They are: categories have no left and right."""
        return True

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        given = {f.name: state[f.name] for f in fields(cls)}
        space: Self = msgspec.convert(given, cls)
        if len({len(v) for v in vars(space).values() if isinstance(v, tuple)}) != 1:
            raise ValueError("ids, names and what else is said of categories differ in number")
        return space

    def differs(self, other: Categories) -> str | None:
        if self.ids == other.ids and self.names == other.names:
            return None
        unknown = [name for name in other.names if name not in self.names]
        lost = [name for name in self.names if name not in other.names]
        return f"unknown {unknown[:5]}, missing {lost[:5]} (or other ids)"


@dataclass(frozen=True)
class Ask:
    """What a task wants to know of an image; a kind's own subclass adds how.

    Attributes:
        view: name of the view in which the task sees the image.
        kind: name of the kind, under which its targets are in `Batch.labels`.
        seen: class of what is in view; joins and batches.
        space: class of the kind's space.
    """

    kind: ClassVar[str]
    seen: ClassVar[type[Seen]]
    space: ClassVar[type[Space]]

    view: str = STRONG

    def agrees(self, other: Ask) -> bool:
        """Whether one set of targets serves both, whatever the views."""
        return replace(self, view="") == replace(other, view="")


class Label(Protocol):
    """What is known of one image, as arrays, in original pixels."""

    def seen(self, view: View, ask: Any) -> Seen:
        """What of it is in view: moved, clipped, drawn at the resolution of the ask."""
        ...


class Seen(Protocol):
    """What of a label is in view, in input pixels; for many kinds the same class."""

    @classmethod
    def joined(cls, parts: Sequence[Any]) -> Seen:
        """What several know of the one input that shows all of their images."""
        ...

    @classmethod
    def batched(cls, rows: Sequence[Any], ask: Any, size: int) -> Targets:
        """Of B inputs of `size` pixels, None where nothing is known, as tensors."""
        ...


@dataclass
class Targets:
    """What is known of B inputs. All fields are tensors, and all have a row per input.

    Attributes:
        known: (B,) bool: the one answer to "is this image labelled?"
    """

    known: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same with every tensor changed: moved, pinned, copied."""
        return replace(self, **{f.name: change(getattr(self, f.name)) for f in fields(self)})

    def take(self, rows: Tensor) -> Self:
        """The inputs `rows` (R,), in that order."""
        return self.map(lambda tensor: tensor[rows])

    def shown(self, row: int) -> Result | None:
        """What is known of one input, in its pixels, as a result that can be drawn."""
        return None


def known_rows(rows: Sequence[Any]) -> Tensor:
    """(B,) bool, which rows are not None."""
    return torch.tensor([row is not None for row in rows], dtype=torch.bool)


@dataclass
class FlatTargets(Targets):
    """M things of B inputs: every field but `known` has a row per thing.

    Attributes:
        image: (M,) int64 position of the thing's input, rising.
    """

    image: Tensor

    def take(self, rows: Tensor) -> Self:
        place = torch.full_like(self.known, -1, dtype=torch.long)
        place[rows] = torch.arange(len(rows), device=rows.device)
        image = place[self.image]
        # Things of one input stay together, in the order of the inputs.
        order = image.argsort(stable=True)
        things = order[image[order] >= 0]
        taken = {f.name: getattr(self, f.name)[things] for f in fields(self) if f.name != "known"}
        return replace(self, **taken | {"image": image[things], "known": self.known[rows]})


@dataclass(frozen=True)
class Result:
    """What a task says of one image, in original pixels.

    Attributes:
        kind: name of the kind whose space its numbers belong to.
        panel: results with the same one are drawn into the same picture; None is not drawn.
        layer: those with a larger one lie on top.
        space: what its numbers mean; None until somebody has told it by `of`.
    """

    kind: ClassVar[str]
    panel: ClassVar[str | None]
    layer: ClassVar[int]

    space: Any = field(default=None, kw_only=True, repr=False, compare=False)

    def of(self, spaces: Mapping[str, Any]) -> Self:
        """The same, which knows what its numbers mean: kind → space."""
        return replace(self, space=spaces[self.kind])

    def above(self, min_score: float) -> Self:
        """Without what scores less; what has no scores stays whole."""
        return self

    def plain(self) -> Json:
        """As json, with names."""
        raise TypeError(f"{type(self).__name__} must define plain")

    def draw(self, canvas: Canvas) -> None:
        """Onto a picture of the image."""
        raise TypeError(f"{type(self).__name__} must define draw")


@dataclass(frozen=True)
class Images:
    """The images of a split or a source, by rising id.

    Attributes:
        ids, heights, widths: (N,) int64.
        names: of the files, relative to the root of the data: `train2017/000000000009.jpg`.
    """

    ids: Array
    heights: Array
    widths: Array
    names: Ragged

    def __len__(self) -> int:
        return len(self.ids)

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of one image."""
        return int(self.heights[index]), int(self.widths[index])

    def sizes(self) -> dict[int, tuple[int, int]]:
        """Image id → (height, width)."""
        sizes = zip(self.heights.tolist(), self.widths.tolist(), strict=True)
        return dict(zip(self.ids.tolist(), sizes, strict=True))


class Source(Protocol):
    """One annotation kind of one split.

    Attributes:
        kind: its name.
        file: its json.
        space: what its numbers mean.
        images: those that it lists; what follows counts by them.
        known: (N,) bool, which of them have a label.
    """

    kind: str
    file: Path
    space: Any
    images: Images
    known: Array

    def read(self, index: int) -> Label:
        """The label of one image that is known, in original pixels."""
        ...

    def files(self) -> Sequence[Path]:
        """The files that `read` opens, besides the json."""
        ...

    def check(self, learn: bool) -> None:
        """Refuse annotations that serve nobody, to learn from them or to be scored against.

        Args:
            learn: they will be learnt from.

        Raises:
            DataError: with the culprit.
        """
        ...

    def truth(self) -> Any:
        """What the kind's official scorer reads."""
        ...

    def result(self, index: int) -> Result:
        """The label of one image in the form of a perfect result."""
        ...


@runtime_checkable
class Categorised(Protocol):
    """A source that knows which categories each image holds."""

    def held(self) -> tuple[Array, Array]:
        """(images + 1,) `first` and (M,) class indices: image i holds `first[i]:first[i + 1]`."""
        ...
