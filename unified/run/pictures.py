"""Pictures of batches, predictions and comparisons, from results that draw themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from unified.arrays import Array
from unified.batch import Batch
from unified.canvas import Canvas
from unified.files import made, whole
from unified.kinds.kind import Result

MAX_TILES = 16
FORMATS = {".jpg": "JPEG", ".png": "PNG"}
Spaces = Mapping[str, Any]
"""Kind → space."""


def draw_batch(batch: Batch, spaces: Spaces) -> Array:
    """A training batch with what is known of it, as tiles of one picture."""
    tiles = []
    for row, image in enumerate(batch.images[:MAX_TILES].permute(0, 2, 3, 1).numpy()):
        known = {
            kind: targets.shown(row)
            for kind, targets in batch.labels.items()
            if bool(targets.known[row])
        }
        shown = {k: result.of(spaces) for k, result in known.items() if result is not None}
        tiles.append(beside(list(panels(image, shown).values())))
    return tile(tiles)


def draw_prediction(image: Array, prediction: Mapping[str, Result]) -> Array:
    """Everything drawable of a prediction for a (H, W, 3) RGB image, panels side by side."""
    return beside(list(panels(image, prediction).values()))


def draw_comparison(
    image: Array, truth: Mapping[str, Result], prediction: Mapping[str, Result]
) -> Array:
    """Ground truth beside the prediction, or above it where there are several panels."""
    right = panels(image, prediction)
    left = panels(image, truth)
    blank = np.full_like(next(iter(right.values())), 255)
    rows = [[side.get(name, blank) for name in right] for side in (left, right)]
    if len(right) == 1:
        return beside([rows[0][0], rows[1][0]])
    return np.vstack([beside(row) for row in rows])


def panels(image: Array, results: Mapping[str, Result]) -> dict[str, Array]:
    """Name of the panel → picture; all of one size but for lines below. One is always there."""
    by_panel: dict[str, list[Result]] = {}
    for result in results.values():
        if result.panel is not None:
            by_panel.setdefault(result.panel, []).append(result)
    pictures = {}
    for name, own in by_panel.items():
        canvas = Canvas(image)
        for result in sorted(own, key=lambda result: result.layer):
            result.draw(canvas)
        pictures[name] = canvas.picture()
    return pictures or {"image": Canvas(image).picture()}


def beside(pictures: Sequence[Array]) -> Array:
    """Pictures in a row, white below those that are lower."""
    height = max(p.shape[0] for p in pictures)
    return np.hstack(
        [
            np.pad(p, ((0, height - p.shape[0]), (0, 0), (0, 0)), constant_values=255)
            for p in pictures
        ]
    )


def tile(pictures: Sequence[Array], columns: int | None = None, side: int = 480) -> Array:
    """A grid; each picture is scaled to fit a cell of the largest size, at most `side` high."""
    height = min(max(p.shape[0] for p in pictures), side)
    scaled = [_to_height(p, height) for p in pictures]
    width = max(p.shape[1] for p in scaled)
    columns = columns or max(1, round(len(scaled) ** 0.5))
    cells = [
        np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in scaled
    ]
    while len(cells) % columns:
        cells.append(np.full_like(cells[0], 255))
    rows = [np.hstack(cells[i : i + columns]) for i in range(0, len(cells), columns)]
    return np.vstack(rows)


def _to_height(picture: Array, height: int) -> Array:
    if picture.shape[0] == height:
        return picture
    width = max(1, round(picture.shape[1] * height / picture.shape[0]))
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def save_picture(picture: Array, file: Path) -> None:
    """Write a (H, W, 3) RGB array; the name, .jpg or .png, decides the format."""
    made(file.parent)
    with whole(file, "wb") as stream:
        Image.fromarray(np.ascontiguousarray(picture)).save(
            stream, FORMATS[file.suffix], quality=90
        )
