"""The contract of a task: one job with its head, its loss, its decoding and its metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from torch import Tensor, nn

from unified.arrays import Array
from unified.batch import Batch
from unified.errors import DataError
from unified.kinds.kind import Ask, Result, Source
from unified.view import PLAIN, ImageMeta

# --- Publications: what tasks hand to each other --------------------------------------------


class Publication:
    """What a task hands to others when building, in a loss or in decoding; found by its type.

    Attributes:
        same_rows: it counts by the inputs that its publisher sees, so who reads it sees the same.
    """

    same_rows: ClassVar[bool] = False


P = TypeVar("P", bound=Publication)


class Upstream:
    """What the tasks that came before have published."""

    def __init__(self, published: Iterable[Publication] = ()) -> None:
        self._by_type: dict[type[Publication], Publication] = {}
        self.add(*published)

    def add(self, *published: Publication) -> None:
        """Hand on."""
        self._by_type |= {type(one): one for one in published}

    def get(self, kind: type[P]) -> P | None:
        """What somebody has published of a type; None where nobody has."""
        return self[kind] if kind in self._by_type else None

    def __getitem__(self, kind: type[P]) -> P:
        found = self._by_type[kind]
        assert isinstance(found, kind)
        return found


# --- Losses ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mean:
    """A loss as sums that may be added over processes before they are divided.

    Its value is Σ total / max(count, 1) over the entries, which have means of their own.

    Attributes:
        total: () or (L,), with gradient.
        count: the same shape.
    """

    total: Tensor
    count: Tensor


Losses = dict[str, Mean]


# --- What a task is built from --------------------------------------------------------------


class DataSpec:
    """What a task may know of the data when it is built.

    Args:
        image_size: side in pixels of the square network input.
        open_source: kind, and the space that it must keep if there is one → the annotated source to
            learn from; None when a trained model is built again.
        saved: kind → the space that a checkpoint holds, whose network is built again.

    Attributes:
        spaces: kind → space, of the kinds that tasks have looked at.
    """

    def __init__(
        self,
        image_size: int,
        open_source: Callable[[str, Any], Source] | None = None,
        saved: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.image_size = image_size
        self._open, self._saved = open_source, saved or {}
        self.spaces: dict[str, Any] = {}

    def space(self, ask: type[Ask]) -> Any:
        """What the numbers of a kind mean.

        Raises:
            DataError: the data has no such annotations.
        """
        kind = ask.kind
        if kind not in self.spaces:
            saved = space_of(ask, self._saved[kind]) if kind in self._saved else None
            if self._open is not None:
                self.spaces[kind] = self._open(kind, saved).space
            elif saved is not None:
                self.spaces[kind] = saved
            else:
                raise DataError(
                    f"the checkpoint knows nothing of {kind}, which its tasks need",
                    "use a checkpoint of the same tasks",
                )
        return self.spaces[kind]

    def source(self, ask: type[Ask]) -> Source | None:
        """The annotations to learn from; None when a trained model is built again."""
        if self._open is None:
            return None
        self.space(ask)  # which the source must keep, where it is saved
        return self._open(ask.kind, None)


def space_of(ask: type[Ask], saved: Mapping[str, Any]) -> Any:
    """The space that a checkpoint holds.

    Raises:
        DataError: it is damaged.
    """
    try:
        return ask.space.from_dict(saved)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"the checkpoint's {ask.kind} space is damaged: {error!r}",
            "use another checkpoint of the run",
        ) from error


# --- Tasks ----------------------------------------------------------------------------------


class Metric(Protocol):
    """Collects results over a validation set, scores them, writes the official file.

    Attributes:
        primary: name of the number that a task is compared by.
    """

    primary: str

    def update(self, results: Sequence[Any], metas: Sequence[ImageMeta]) -> None:
        """Take the results of a batch."""
        ...

    def gather(self) -> None:
        """Bring all processes' results to the first; every process takes part."""
        ...

    def compute(self) -> dict[str, float]:
        """Metric name → value; `primary` is among the names. Of the first process only."""
        ...

    def share(self, value: float) -> float:
        """A value of `primary` on a scale from 0 to 1, on which tasks are joined."""
        ...

    def about(self) -> dict[str, str]:
        """How it was scored, where that is not the same on every machine; may be empty."""
        ...

    def reset(self) -> None:
        """Forget the results."""
        ...

    def write(self, folder: Path) -> None:
        """Write the official result file into `folder`."""
        ...

    def curves(self) -> dict[str, tuple[Array, Array]]:
        """Curve name → (x, y) for the run folder's plots; may be empty."""
        ...


class Task(nn.Module):
    """One job.

    A subclass is built from `features` (what the trunk publishes), `data` (a `DataSpec`) and,
    where it takes it, `upstream` (what was published while building), with arguments of its own
    from the configuration. Buffers that its loss keeps are its own buffers: they move and are
    saved with the training, and are no part of the network, which is `head`.

    Attributes:
        name: the key under which the task appears everywhere.
        requires: types of publications that it reads; their publishers run before it.
        uses: the same, where somebody publishes them; it can do without.
        publishes: types of publications that it makes.
        truth: ask for the kind that its metric scores against.
        head: its discriminator d_Ψ.
        asks: what it learns from, and in which view.
        checks: what its decoding reads of validation batches, and in which view.
        losses: names of its losses.
        loss_weights: loss name → its fixed weight within the task.
        measured: names of arguments that are measured on the data when building, and of the
            head's buffers that hold them; they belong to the data, not to what was learnt.
        meaning: names of arguments that say what weights mean, and not how many there are.
        relearns: name of an argument that, where it is true, lets it learn from what it does
            already, so that it cannot start anew; empty without such.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[type[Publication], ...]] = ()
    uses: ClassVar[tuple[type[Publication], ...]] = ()
    publishes: ClassVar[tuple[type[Publication], ...]] = ()
    truth: ClassVar[type[Ask]]
    measured: ClassVar[tuple[str, ...]] = ()
    meaning: ClassVar[tuple[str, ...]] = ()
    relearns: ClassVar[str] = ""
    losses: ClassVar[tuple[str, ...]]

    head: nn.Module
    asks: tuple[Ask, ...]
    checks: tuple[Ask, ...] = ()
    loss_weights: Mapping[str, float]

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views that it learns from."""
        return tuple(dict.fromkeys(ask.view for ask in self.asks))

    @property
    def checked_views(self) -> tuple[str, ...]:
        """Names of the views that it sees in validation."""
        return tuple(dict.fromkeys([PLAIN, *(ask.view for ask in self.checks)]))

    def built(self) -> Sequence[Publication]:
        """What is known when it is built."""
        return ()

    def shares(self, outputs: Mapping[str, Tensor]) -> Sequence[Publication]:
        """What other tasks may read of the outputs, in a loss and in decoding."""
        return ()

    def loss(
        self, outputs: Mapping[str, Tensor], batch: Batch, upstream: Upstream
    ) -> tuple[Losses, Publication | None]:
        """Unweighted losses by name, and what other tasks' losses may read.

        Args:
            outputs: of the head, for the inputs of `batch`.
            batch: the inputs in the task's views. Those of which its kinds are not known
                contribute nothing to any total or count.
            upstream: what the required tasks have published.
        """
        raise TypeError(f"{type(self).__name__} must define loss")

    def keep(self, outputs: Mapping[str, Tensor], upstream: Upstream) -> Any:
        """What of the outputs is worth keeping, as tensors of fixed rank; also published."""
        raise TypeError(f"{type(self).__name__} must define keep")

    def finish(self, kept: Any, batch: Batch, upstream: Upstream) -> list[Any]:
        """A result per input, in the pixels of the original images."""
        raise TypeError(f"{type(self).__name__} must define finish")

    def metric(self, source: Any) -> Metric:
        """A fresh metric that scores against a source of the kind of `truth`."""
        raise TypeError(f"{type(self).__name__} must define metric")


Results = dict[str, list[Result]]
"""Task name → a result per input."""
Prediction = dict[str, Any]
"""Task name → its result for one image."""
