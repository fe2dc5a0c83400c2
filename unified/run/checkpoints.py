"""The two checkpoints of a run: `last.ckpt` to go on, `best.ckpt` for use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from unified.checkpoint import for_use, read_checkpoint
from unified.errors import OutputError
from unified.files import whole

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
        try:
            with whole(target, "wb") as file:
                torch.save(for_use(checkpoint) if target.stem == BEST else checkpoint, file)
        except RuntimeError as error:  # how torch says that the disk is full
            raise OutputError(
                f"{target} cannot be written whole: the disk may be full "
                f"({str(error).splitlines()[0]})",
                "free some space and go on with resume=<run>; the previous one is intact",
            ) from error

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Containers and tensors, and nothing that executes."""
        return read_checkpoint(path)


class Keeper(ModelCheckpoint):
    """A checkpoint that knows its run again after the folder was moved, renamed or copied."""

    def __init__(self, folder: Path, name: str, **options: Any) -> None:
        super().__init__(folder, name, enable_version_counter=False, **options)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {name: self._here(state_dict.get(name, "")) for name in paths}
        scores = {self._here(f): v for f, v in state_dict.get("best_k_models", {}).items()}
        here = {"dirpath": self.dirpath, "best_k_models": scores}
        super().load_state_dict({**state_dict, **moved, **here})

    def _here(self, file: str) -> str:
        return str(Path(str(self.dirpath)) / Path(file).name) if file else ""
