"""Stops a run whose losses are not finite, without waiting for the device in every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from unified.errors import DataError
from unified.view import ImageMeta

INTERVAL = 50
"""Steps after which the device is asked; it is asked, too, before anything is saved or scored."""


class FiniteGuard:
    """Notes on the device which loss was the first that is not finite."""

    def __init__(self) -> None:
        self.first: Tensor | None = None
        self.steps: list[tuple[int, list[str]]] = []
        self.names: list[str] = []

    def note(self, step: int, values: Mapping[str, Tensor], metas: Sequence[ImageMeta]) -> None:
        """Take the losses of a step, or what a network says; ask the device where it is time.

        Raises:
            DataError: see `read`.
        """
        self.names = list(values)
        bad = ~torch.stack([value.detach() for value in values.values()]).isfinite()
        if self.first is None:
            self.first = bad.new_full((2,), -1, dtype=torch.long)
        here = torch.stack(
            [bad.new_full((), len(self.steps), dtype=torch.long), bad.int().argmax()]
        )
        self.first = torch.where((self.first[0] < 0) & bad.any(), here, self.first)
        self.steps.append((step, [Path(meta.file).name for meta in metas[:4]]))
        if len(self.steps) >= INTERVAL:
            self.read()

    def read(self) -> None:
        """Ask the device.

        Raises:
            DataError: a value was not finite; names it, its step and its images.
        """
        if self.first is None:
            return
        place, name = self.first.tolist()
        if place >= 0:
            step, files = self.steps[place]
            raise DataError(
                f"{self.names[name]} is not finite at step {step}, batch with "
                f"{', '.join(files)}, …",
                "lower optim.lr, or look at these images' annotations; resume=<run> goes on from "
                "the last epoch, where one was saved",
            )
        self.steps = []
