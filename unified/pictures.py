"""Pictures of batches, predictions and curves."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

from unified.specs import (
    IGNORE,
    Array,
    Batch,
    Detections,
    Instances,
    LabelSpace,
    Masks,
    PanopticSegments,
    PixelClasses,
    Prediction,
    Tags,
)

matplotlib.use("Agg")
from matplotlib import pyplot as plt

MAX_TILES = 16


def colour_of(index: int) -> tuple[int, int, int]:
    """A stable, bright colour for a class index."""
    r, g, b = colorsys.hsv_to_rgb((index * 0.618034) % 1, 0.75, 1.0)
    return int(r * 255), int(g * 255), int(b * 255)


def draw_boxes(image: Array, boxes: Array, labels: Sequence[int], captions: Sequence[str]) -> Array:
    """Outline boxes (N, 4), in the image's pixels, on a copy of a (H, W, 3) RGB image."""
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    line = max(1, round(max(image.shape[:2]) / 320))
    font = ImageFont.load_default(size=max(10, max(image.shape[:2]) // 45))
    for box, label, caption in zip(boxes.tolist(), labels, captions, strict=True):
        colour = colour_of(int(label))
        draw.rectangle(box, outline=colour, width=line)
        if caption:
            _write_text(draw, (box[0], box[1]), caption, font, colour)
    return np.asarray(picture)


def _write_text(draw: Any, at: tuple[float, float], text: str, font: Any, colour: Any) -> None:
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    x, y = at[0], max(0.0, at[1] - (bottom - top) - 4)
    draw.rectangle((x, y, x + right - left + 4, y + bottom - top + 4), fill=colour)
    draw.text((x + 2 - left, y + 2 - top), text, fill=(0, 0, 0), font=font)


def draw_batch(batch: Batch, names: Sequence[str]) -> Array:
    """A training batch with its boxes, as tiles of one picture."""
    tiles = []
    for sample in batch.samples[:MAX_TILES]:
        # Drawn at twice the size where the input is small, so that text stays readable.
        scale = 2 if sample.image.shape[0] < 320 else 1
        found = sample.instances
        tiles.append(_draw_instances(_enlarge(sample.image, scale), found, names, scale))
    return tile(tiles)


def _draw_instances(
    image: Array, instances: Instances | None, names: Sequence[str], scale: float
) -> Array:
    if instances is None or not len(instances):
        return image
    captions = [
        ("crowd " if crowd else "") + names[label]
        for label, crowd in zip(instances.labels, instances.crowd, strict=True)
    ]
    return draw_boxes(image, instances.boxes * scale, instances.labels.tolist(), captions)


def draw_prediction(
    image: Array, prediction: Prediction, labels: Mapping[str, LabelSpace], min_score: float
) -> Array:
    """Everything drawable of a prediction for a (H, W, 3) RGB image, side by side.

    Objects with their boxes and masks are one panel, each map of pixels is another.
    """
    panels = list(_panels(image, prediction, labels, min_score).values())
    height = max(p.shape[0] for p in panels)
    return np.hstack([_pad_below(p, height) for p in panels])


def draw_comparison(
    image: Array,
    truth: Prediction,
    prediction: Prediction,
    labels: Mapping[str, LabelSpace],
    min_score: float,
) -> Array:
    """Ground truth beside the prediction, or above it where there are several panels."""
    left = _panels(image, truth, labels, min_score)
    right = _panels(image, prediction, labels, min_score)
    height = max(p.shape[0] for p in [*left.values(), *right.values()])
    blank = np.full_like(next(iter(right.values())), 255)
    rows = [
        np.hstack([_pad_below(side.get(name, blank), height) for name in right])
        for side in (left, right)
    ]
    return np.hstack(rows) if len(right) == 1 else np.vstack(rows)


def _panels(
    image: Array, prediction: Prediction, labels: Mapping[str, LabelSpace], min_score: float
) -> dict[str, Array]:
    """Name → picture; all of one size but for the caption below."""
    scale = 2 if max(image.shape[:2]) < 320 else 1
    large = _enlarge(image, scale)
    panels = {}
    maps = {n: r for n, r in prediction.items() if isinstance(r, (PixelClasses, PanopticSegments))}
    if len(maps) < len(prediction) or not maps:
        names = labels["instances"].names if "instances" in labels else ()
        panels["objects"] = _draw_objects(large, prediction, names, min_score, scale)
    for name, result in maps.items():
        if isinstance(result, PixelClasses):
            panels[name] = _draw_classes(large, result, labels[result.kind].names, scale)
        else:
            panels[name] = _draw_segments(large, result, labels["panoptic"].names, scale)
    return panels


def _draw_objects(
    image: Array, prediction: Prediction, names: Sequence[str], min_score: float, scale: int
) -> Array:
    """Masks below boxes, tags in a strip."""
    picture = image
    for result in prediction.values():
        if isinstance(result, Masks):
            picture = _draw_masks(picture, result, min_score, scale)
    for result in prediction.values():
        if isinstance(result, Detections):
            chosen = result.scores >= min_score
            found = result.labels[chosen].tolist()
            captions = [
                f"{names[label]} {score:.2f}"
                for label, score in zip(found, result.scores[chosen].tolist(), strict=True)
            ]
            boxes = result.boxes[chosen].cpu().numpy() * scale
            picture = draw_boxes(picture, boxes, found, captions)
    for result in prediction.values():
        if isinstance(result, Tags):
            order = result.scores.argsort(descending=True)[:4].tolist()
            said = [
                f"{names[i]} {float(result.scores[i]):.2f}"
                for i in order
                if result.scores[i] >= 0.5
            ]
            picture = _add_caption(picture, ", ".join(said) or "no category above 0.5")
    return picture


def _draw_masks(image: Array, found: Masks, min_score: float, scale: int) -> Array:
    """Tint and outline the masks, each in a colour of its own, best on top."""
    count = int((found.scores >= min_score).sum())
    picture = image.copy()
    for index in reversed(range(count)):
        mask = _enlarge(coco_mask.decode(found.rles[index]), scale)
        colour = colour_of(index)
        inside = mask > 0
        picture[inside] = picture[inside] // 2 + np.array(colour, np.uint8) // 2
        outline, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outline, -1, colour, 1)
    return np.asarray(picture)


def _draw_classes(image: Array, found: PixelClasses, names: Sequence[str], scale: int) -> Array:
    """Tint pixels by class and name the larger regions."""
    classes = _enlarge(found.classes.cpu().numpy(), scale)
    seen = [int(c) for c in np.unique(classes) if c != IGNORE]
    regions = {names[c]: classes == c for c in seen}
    return _name_regions(tint(image, classes), list(regions.items()))


def _draw_segments(
    image: Array, found: PanopticSegments, names: Sequence[str], scale: int
) -> Array:
    """Tint segments, each object of a class a little differently; white borders; names."""
    segments = _enlarge(found.segments.cpu().numpy(), scale)
    labels = found.labels.tolist()
    earlier = [labels[:k].count(label) for k, label in enumerate(labels)]
    colours = [(label + 21 * n) % IGNORE for label, n in zip(labels, earlier, strict=True)]
    picture = tint(image, np.array([IGNORE, *colours], np.uint8)[segments])
    border = np.zeros(segments.shape, bool)
    border[:, 1:] |= segments[:, 1:] != segments[:, :-1]
    border[1:] |= segments[1:] != segments[:-1]
    picture[border] = 255
    regions = [(names[label], segments == k) for k, label in enumerate(labels, 1)]
    return _name_regions(picture, regions)


def _name_regions(image: Array, regions: Sequence[tuple[str, Array]]) -> Array:
    """Write each name where its region (H, W) is widest, if there is room."""
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    size = max(10, max(image.shape[:2]) // 45)
    font = ImageFont.load_default(size=size)
    for name, region in regions:
        depth = cv2.distanceTransform(np.pad(region, 1).astype(np.uint8), cv2.DIST_L2, 3)
        _, most, _, (x, y) = cv2.minMaxLoc(depth)
        if most >= size * 0.7:
            draw.text(
                (x, y), name, (255, 255, 255), font, "mm", stroke_width=1, stroke_fill=(0, 0, 0)
            )
    return np.asarray(picture)


def tint(image: Array, classes: Array, strength: float = 0.45) -> Array:
    """Colour the pixels of a (H, W, 3) RGB image by their class (H, W) uint8, if they have one."""
    palette = np.array([colour_of(i) for i in range(256)], np.uint8)
    tinted = cv2.addWeighted(image, 1 - strength, palette[classes], strength, 0)
    return np.where((classes == IGNORE)[..., None], image, tinted)


def _pad_below(picture: Array, height: int) -> Array:
    missing = height - picture.shape[0]
    return np.pad(picture, ((0, missing), (0, 0), (0, 0)), constant_values=255)


def _enlarge(image: Array, scale: int) -> Array:
    return image if scale == 1 else image.repeat(scale, 0).repeat(scale, 1)


def _add_caption(image: Array, text: str) -> Array:
    """A strip of text below the picture."""
    size = max(11, max(image.shape[:2]) // 40)
    strip = Image.new("RGB", (image.shape[1], size + 8), (255, 255, 255))
    font = ImageFont.load_default(size=size)
    ImageDraw.Draw(strip).text((3, 2), text, fill=(0, 0, 0), font=font)
    return np.vstack([image, np.asarray(strip)])


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
    """Write a (H, W, 3) RGB array; the name decides the format."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(picture)).save(file, quality=90)


def plot_history(rows: Sequence[Mapping[str, float]], file: Path) -> None:
    """Training losses and validation metrics over epochs."""
    names = sorted({name for row in rows for name in row})
    losses = [n for n in names if n.startswith("train/")]
    metrics = [n for n in names if n.startswith("val/") and n.split("/")[-1] in _SHOWN]
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    for axis, group, title in (
        (axes[0], losses, "training loss"),
        (axes[1], metrics, "validation"),
    ):
        for name in group:
            points = [(row["epoch"] + 1, row[name]) for row in rows if name in row]
            axis.plot(*zip(*points, strict=True), label=name.split("/", 1)[1])
        axis.set_title(title)
        axis.set_xlabel("epoch")
        if group:
            axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")
    axes[1].set_ylim(0, 1)
    figure.savefig(file, dpi=110)
    plt.close(figure)


_SHOWN = {"AP", "AP50", "mAP", "Recall@1", "mAP@R", "mIoU", "pAcc", "PQ"}


def plot_curves(curves: Mapping[str, tuple[Array, Array]], title: str, file: Path) -> None:
    """Precision over recall, or any curves in the unit square."""
    figure, axis = plt.subplots(figsize=(5, 4.4), layout="constrained")
    for name, (x, y) in curves.items():
        axis.plot(x, y, label=name)
    axis.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axis.legend()
    axis.grid(alpha=0.3)
    figure.savefig(file, dpi=110)
    plt.close(figure)
