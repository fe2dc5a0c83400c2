"""What all metrics share: one record per image, gathered over the processes of a job."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import torch.distributed as dist

Record = TypeVar("Record")


class Collector(Generic[Record]):
    """Records by image key; an image that two processes saw counts once."""

    def __init__(self) -> None:
        self.records: dict[Any, Record] = {}

    def reset(self) -> None:
        """Forget everything."""
        self.records = {}

    def gather(self) -> None:
        """Bring all processes' records together, sorted by key.

        Every process must take part: `compute` calls this, what only one process does must not.
        """
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, self.records)
            for part in parts:
                self.records = part | self.records
        self.records = dict(sorted(self.records.items()))
