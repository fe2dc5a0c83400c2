"""The two checkpoints of a run: `last.ckpt` to go on, `best.ckpt` for use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from unified.weights import for_use

BEST, LAST = "best", "last"


class RunCheckpoints(TorchCheckpointIO):
    """Writes beside the target and moves: a run killed while saving keeps its previous file.

    `last.ckpt` is the whole state of training; `best.ckpt` holds what is needed to use the network.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        with partial.open("wb") as file:
            torch.save(for_use(checkpoint) if target.stem == BEST else checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
