"""Means of an epoch's losses, kept on the device and saved with the training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class EpochMeans:
    """Means of named values over the steps of an epoch.

    They are part of what a run is saved with, so that an epoch that was interrupted is logged as
    if it had not been. Nothing waits for the device until somebody reads them.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.means: Tensor | None = None
        self.weight = 0

    def reset(self) -> None:
        """Begin an epoch."""
        self.means, self.weight = None, 0

    def add(self, values: Mapping[str, Tensor], weight: int) -> None:
        """Take the values of a step, which counts for `weight` inputs."""
        self.names = list(values)
        here = torch.stack([value.detach().float() for value in values.values()])
        self.weight += weight
        start = torch.zeros_like(here) if self.means is None else self.means.to(here.device)
        self.means = start + (here - start) * (weight / self.weight)

    def read(self) -> dict[str, float]:
        """Name → mean; empty before the first step."""
        values = [] if self.means is None else self.means.tolist()
        return dict(zip(self.names, values, strict=False))

    def state_dict(self) -> dict[str, Any]:
        """Plain containers and a tensor."""
        return {"names": self.names, "means": self.means, "weight": self.weight}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was saved."""
        self.names, self.means, self.weight = (
            list(state["names"]), state["means"], int(state["weight"])
        )  # fmt: skip
