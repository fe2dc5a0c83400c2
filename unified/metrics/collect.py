"""What all metrics share: one record per image, gathered over the processes of a job."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import numpy as np
import torch.distributed as dist

from unified.arrays import Array
from unified.kinds.kind import Source

Record = TypeVar("Record")


class Collector(Generic[Record]):
    """Records by image key; an image that two processes saw counts once."""

    def __init__(self) -> None:
        self.records: dict[Any, Record] = {}

    def reset(self) -> None:
        """Forget everything."""
        self.records = {}

    def gather(self) -> None:
        """Bring all processes' records to the first; every process must take part."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return
        first = dist.get_rank() == 0
        parts: list[Any] = [None] * dist.get_world_size()
        dist.gather_object(self.records, parts if first else None)
        for part in parts if first else ():
            self.records = part | self.records

    def sorted_records(self) -> dict[Any, Record]:
        """The records, by rising key."""
        return dict(sorted(self.records.items()))

    def share(self, value: float) -> float:
        """Most have a best value of one."""
        return value

    def about(self) -> dict[str, str]:
        """Most are scored alike everywhere."""
        return {}

    def curves(self) -> dict[str, tuple[Array, Array]]:
        """Curve name → (x, y); most metrics have none."""
        return {}


class Lookup:
    """Finds the images of a source that are scored, by their ids."""

    def __init__(self, source: Source) -> None:
        places = np.flatnonzero(source.known)
        self._place = dict(zip(source.images.ids[places].tolist(), places.tolist(), strict=True))

    def __getitem__(self, image_id: int) -> int | None:
        """Position of an image in the source; None where it has no label there."""
        return self._place.get(image_id)
