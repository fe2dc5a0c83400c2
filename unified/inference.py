"""A trained network, ready for images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from unified.arrays import Array
from unified.batch import Batch
from unified.bounds import Share, checked
from unified.checkpoint import config_of, read_checkpoint
from unified.data.images import (
    BROKEN,
    MAX_PIXELS,
    draw_file,
    reduction,
    refuse_large,
    upright_size,
)
from unified.errors import ConfigError, DataError
from unified.model import UnifiedModel
from unified.task import DataSpec, Prediction
from unified.trust import Trust
from unified.view import ImageMeta, blank, draw, letterbox
from unified.weights import rebuild

Picture = str | Path | Image.Image | Array | Tensor
"""A file, PIL image, (H, W, 3) uint8 RGB array or (3, H, W) uint8 RGB tensor."""


_FORMS = "give a file, a PIL image, or uint8 RGB: (H, W, 3) as an array, (3, H, W) as a tensor"


class Predictor:
    """A trained network, ready for images.

    Args:
        model: network and tasks.
        data: what they were built from.
        device: where to run.
        fuse: fold batch norms and codes into the convolutions first.
        max_pixels: of an image file; larger ones are refused instead of decoded.

    Attributes:
        spaces: kind → space, to name what results say.
    """

    def __init__(
        self,
        model: UnifiedModel,
        data: DataSpec,
        device: str | torch.device = "cpu",
        fuse: bool = True,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.device, self.max_pixels = torch.device(device), max_pixels
        self.model = (model.fuse() if fuse else model.eval()).to(self.device)
        self.image_size, self.spaces = data.image_size, data.spaces

    def predict(self, image: Picture, min_score: float = 0.0) -> Prediction:
        """All tasks on one image.

        Args:
            image: file, PIL image, (H, W, 3) uint8 RGB array or (3, H, W) uint8 RGB tensor. Files
                and PIL images are turned as the camera says; numbers are taken as they are.
            min_score: what scores less is left out, in [0, 1]. 0 leaves what the tasks' own
                thresholds have left.

        Returns:
            Task name → typed result (`Detections`, `Tags`, `Vectors`, …), in the image's own
            pixels.

        Raises:
            DataError: the image cannot be read or has another form.
            ConfigError: `min_score` is no share.
        """
        return self.predict_batch([image], min_score)[0]

    @torch.inference_mode()
    def predict_batch(self, images: Sequence[Picture], min_score: float = 0.0) -> list[Prediction]:
        """All tasks on several images at once."""
        if not isinstance(images, Sequence) or isinstance(images, str):
            raise DataError(f"{images!r:.60} is no list of images", "give a list, or use predict")
        if not images:
            return []
        inputs, metas = zip(*(self._prepare(image) for image in images), strict=True)
        pixels = torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2)
        return self.predict_inputs(Batch(pixels, list(metas)), min_score)

    @torch.inference_mode()
    def predict_inputs(self, batch: Batch, min_score: float = 0.0) -> list[Prediction]:
        """All tasks on inputs that are drawn already, as those of a data set."""
        checked("min_score", min_score, Share)
        batch = batch.to(self.device)
        found = self.model.decode(self.model(batch.images), batch)
        return [
            {name: own[i].of(self.spaces).above(min_score) for name, own in found.items()}
            for i in range(len(batch.metas))
        ]

    def _prepare(self, image: Picture) -> tuple[Array, ImageMeta]:
        """The input (S, S, 3) RGB; of a file, the one that it gives in evaluation."""
        canvas = blank(self.image_size)
        if isinstance(image, (str, Path)):
            height, width = size = upright_size(Path(image), self.max_pixels)
            wanted = letterbox(height, width, self.image_size)
            matrix = draw_file(
                canvas, Path(image), wanted, size, upright=True, max_pixels=self.max_pixels
            )
            return canvas, ImageMeta(-1, str(image), height, width, matrix)
        rgb = as_rgb(image, self.max_pixels)
        height, width = rgb.shape[:2]
        factor = reduction(self.image_size / max(height, width))
        if factor > 1:
            smaller = (max(1, width // factor), max(1, height // factor))
            rgb = cv2.resize(rgb, smaller, interpolation=cv2.INTER_AREA)
        matrix = draw(canvas, rgb, letterbox(height, width, self.image_size), height, width)
        return canvas, ImageMeta(-1, "image", height, width, matrix)


def as_rgb(image: Image.Image | Array | Tensor, max_pixels: int = MAX_PIXELS) -> Array:
    """(H, W, 3) uint8 RGB from what `predict` takes besides files."""
    if isinstance(image, Image.Image):
        refuse_large("the PIL image", image.height, image.width, max_pixels)
        try:
            # As files are: turned as the camera says, and of 16 bits the upper ones.
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16"):
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            array = np.asarray(image.convert("RGB"))
        except BROKEN as error:
            raise DataError(f"the PIL image cannot be decoded: {error}", _FORMS) from error
    elif isinstance(image, Tensor):
        if image.ndim != 3 or image.dtype != torch.uint8 or image.layout != torch.strided:
            raise DataError(f"a tensor {tuple(image.shape)} of {image.dtype} is no image", _FORMS)
        if image.is_meta:
            raise DataError("a meta tensor holds no image", _FORMS)
        array = image.detach().permute(1, 2, 0).cpu().numpy()
    elif isinstance(image, np.ndarray):
        array = image
    else:
        raise DataError(f"{type(image).__name__} {image!r:.60} is no image", _FORMS)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or not array.size:
        raise DataError(
            f"an image of shape {array.shape} and type {array.dtype} cannot be predicted on", _FORMS
        )
    return np.ascontiguousarray(array)


def load(
    path: str | Path,
    device: str | torch.device | None = None,
    fuse: bool = True,
    trust: Trust = None,
) -> Predictor:
    """Load a checkpoint for prediction.

    Args:
        path: `best.ckpt`, `last.ckpt` or the run folder.
        device: the first accelerator where there is one, else the CPU.
        fuse: fold batch norms and codes into the convolutions.
        trust: package, or packages, of your own whose classes the checkpoint may name.

    Raises:
        DataError: the checkpoint is missing or unreadable.
        ConfigError: it names classes that are not trusted, or the device is unknown.
    """
    state = read_checkpoint(path)
    config = config_of(path, state, trust)
    return Predictor(*rebuild(state, config), usable(device), fuse, config.data.max_pixels)


def usable(device: str | torch.device | None) -> torch.device:
    """The device that is meant; the first accelerator, or the CPU, where none is named.

    Raises:
        ConfigError: there is no such device.
    """
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device={device} cannot be used: {reason}", "use cpu or cuda") from error
    return chosen
