"""From network outputs to predictions, for evaluation and for single images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unified.build import Built, read_checkpoint, rebuild
from unified.data.dataset import collate
from unified.data.geometry import PADDING, letterbox, warp_onto
from unified.data.images import read_upright
from unified.errors import DataError
from unified.model import Outputs
from unified.protocols import Task
from unified.specs import Array, Batch, ImageMeta, LabelSpace, Prediction, Sample, Upstream


def decode_all(tasks: Mapping[str, Task], outputs: Outputs, batch: Batch) -> dict[str, list[Any]]:
    """Task name → B predictions, each task reading what the required ones kept."""
    upstream: Upstream = {}
    return {name: task.decode(outputs[name], batch, upstream) for name, task in tasks.items()}


class Predictor:
    """A trained network, ready for images.

    Args:
        built: model and tasks.
        device: where to run.
        fuse: fold batch norms and codes into the convolutions first.

    Attributes:
        labels: annotation kind → label space, to name the classes of predictions.
    """

    def __init__(self, built: Built, device: str | torch.device = "cpu", fuse: bool = True) -> None:
        self.device = torch.device(device)
        model = built.model.fuse() if fuse else built.model.eval()
        self.model = model.to(self.device)
        self.tasks = built.tasks
        self.image_size = built.data.image_size
        self.labels: Mapping[str, LabelSpace] = built.data.labels

    def predict(self, image: str | Path | Image.Image | Array | Tensor) -> Prediction:
        """All tasks on one image.

        Args:
            image: file, PIL image, (H, W, 3) uint8 RGB array or (3, H, W) uint8 RGB tensor.

        Returns:
            Task name → typed prediction (`Detections`, `Tags`, `Vectors`), boxes in the image's
            own pixels.

        Raises:
            DataError: the image cannot be read or has another form.
        """
        return self.predict_batch([image])[0]

    @torch.inference_mode()
    def predict_batch(
        self, images: list[str | Path | Image.Image | Array | Tensor]
    ) -> list[Prediction]:
        """All tasks on several images at once."""
        batch = collate([[self._prepare(image)] for image in images]).to(self.device)
        found = decode_all(self.tasks, self.model(batch.images), batch)
        return [{name: found[name][i] for name in found} for i in range(len(images))]

    def _prepare(self, image: Any) -> Sample:
        rgb = as_rgb(image)
        height, width = rgb.shape[:2]
        size = self.image_size
        matrix = letterbox(height, width, size)
        canvas = np.full((size, size, 3), PADDING, np.uint8)
        scale = size / max(height, width)
        if scale < 1:
            # Shrink by averaging first: bilinear sampling alone would skip pixels.
            small = _shrink(rgb, max(1, int(1 / scale)))
            factor = np.diag([width / small.shape[1], height / small.shape[0]])
            warp_onto(canvas, small, np.column_stack([matrix[:, :2] @ factor, matrix[:, 2]]))
        else:
            warp_onto(canvas, rgb, matrix)
        name = str(image) if isinstance(image, (str, Path)) else "image"
        return Sample(canvas, ImageMeta(-1, name, height, width, matrix))


def _shrink(rgb: Array, factor: int) -> Array:
    if factor == 1:
        return rgb
    return np.asarray(Image.fromarray(rgb).reduce(factor))


def as_rgb(image: str | Path | Image.Image | Array | Tensor) -> Array:
    """(H, W, 3) uint8 RGB from anything `predict` takes."""
    if isinstance(image, (str, Path)):
        return read_upright(image)
    if isinstance(image, Image.Image):
        return np.array(image.convert("RGB"))
    array = image.permute(1, 2, 0).cpu().numpy() if isinstance(image, Tensor) else image
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise DataError(
            f"an image of shape {array.shape} and type {array.dtype} cannot be predicted on",
            "give uint8 RGB, (H, W, 3) as an array or (3, H, W) as a tensor",
        )
    return np.ascontiguousarray(array)


def load(
    path: str | Path, device: str | torch.device | None = None, fuse: bool = True
) -> Predictor:
    """Load a checkpoint for prediction.

    Args:
        path: `best.ckpt`, `last.ckpt` or the run folder.
        device: the first accelerator where there is one, else the CPU.
        fuse: fold batch norms and codes into the convolutions.

    Raises:
        DataError: the checkpoint is missing or unreadable.
    """
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Predictor(rebuild(read_checkpoint(path)), chosen, fuse)
