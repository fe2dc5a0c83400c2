"""What a run leaves behind for people: results, pictures, a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from unified.callbacks import read_history
from unified.data.dataset import CocoDataset
from unified.data.images import read_image
from unified.data.truth import truth_like
from unified.inference import Predictor
from unified.metrics.semantic import encode_classes
from unified.ops.rle import encode
from unified.pictures import (
    draw_comparison,
    plot_curves,
    plot_history,
    save_picture,
    tile,
)
from unified.protocols import Metric
from unified.specs import (
    Detections,
    LabelSpace,
    Masks,
    PanopticSegments,
    PixelClasses,
    Prediction,
    Tags,
    Vectors,
)

PICTURED = 8


def write_results(
    folder: Path, metrics: Mapping[str, Metric], scores: Mapping[str, Any], facts: Mapping[str, Any]
) -> None:
    """`results.json`, every task's official result file, and its curves."""
    document = {"metrics": scores, **facts}
    (folder / "results.json").write_text(json.dumps(document, indent=2))
    for name, metric in metrics.items():
        metric.write(folder)
        curves = metric.curves()
        if curves:
            plot_curves(curves, f"{name}: precision and recall", folder / f"{name}_curves.png")


def write_history_plot(folder: Path) -> None:
    """`curves.png` from `metrics.csv`."""
    file = folder / "metrics.csv"
    if file.is_file():
        plot_history(read_history(file), folder / "curves.png")


def write_comparisons(
    folder: Path, predictor: Predictor, dataset: CocoDataset, min_score: float
) -> Path:
    """`predictions.jpg`: ground truth beside predictions for some validation images."""
    split = dataset.split
    rows = torch.linspace(0, len(split) - 1, min(PICTURED, len(split))).long().tolist()
    pictures = []
    for index in rows:
        rgb = read_image(split.image_file(index))[:, :, ::-1].copy()
        prediction = predictor.predict(rgb)
        truth = truth_like(prediction, split, index)
        pictures.append(draw_comparison(rgb, truth, prediction, split.labels, min_score))
    file = folder / "predictions.jpg"
    save_picture(tile(pictures, columns=2), file)
    return file


def print_scores(scores: Mapping[str, Mapping[str, float]], title: str) -> None:
    """One table with every task's metrics."""
    table = Table(title=title)
    for heading in ("task", "metric"):
        table.add_column(heading)
    table.add_column("value", justify="right")
    for task, values in scores.items():
        for index, (name, value) in enumerate(values.items()):
            table.add_row(task if index == 0 else "", name, f"{value:.4f}")
        table.add_section()
    Console().print(table)


def to_plain(
    prediction: Prediction, labels: Mapping[str, LabelSpace], min_score: float
) -> dict[str, Any]:
    """A prediction as json: names instead of indices, plain numbers instead of tensors.

    Vectors and masks belong to the detections: all are cut at the same score.
    """
    names = labels["instances"].names if "instances" in labels else ()
    keep = slice(None)
    plain: dict[str, Any] = {}
    for task, result in prediction.items():
        if isinstance(result, Detections):
            keep = slice(0, int((result.scores >= min_score).sum()))
            plain[task] = [
                {
                    "category": names[label],
                    "score": round(score, 5),
                    "box": [round(v, 2) for v in box],
                }
                for label, score, box in zip(
                    result.labels[keep].tolist(),
                    result.scores[keep].tolist(),
                    result.boxes[keep].tolist(),
                    strict=True,
                )
            ]
        elif isinstance(result, Tags):
            plain[task] = dict(
                zip(names, [round(s, 5) for s in result.scores.tolist()], strict=True)
            )
        elif isinstance(result, Masks):
            plain[task] = result.rles[keep]
        elif isinstance(result, PanopticSegments):
            plain[task] = _segments_to_plain(result, labels["panoptic"])
        elif isinstance(result, PixelClasses):
            plain[task] = _classes_to_plain(result, labels[result.kind])
        elif isinstance(result, Vectors):
            plain[task] = [[round(v, 5) for v in row] for row in result.vectors[keep].tolist()]
    return plain


def _segments_to_plain(found: PanopticSegments, labels: LabelSpace) -> list[dict[str, Any]]:
    """One RLE per segment."""
    segments = found.segments.cpu().numpy()
    return [
        {
            "category": labels.names[label],
            "thing": labels.things[label],
            "score": round(score, 5),
            "segmentation": encode(segments == number),
        }
        for number, (label, score) in enumerate(
            zip(found.labels.tolist(), found.scores.tolist(), strict=True), 1
        )
    ]


def _classes_to_plain(found: PixelClasses, labels: LabelSpace) -> list[dict[str, Any]]:
    """One RLE per class that is seen."""
    rows = encode_classes(found.classes.cpu().numpy(), -1, range(len(labels)))
    return [
        {"category": labels.names[r["category_id"]], "segmentation": r["segmentation"]}
        for r in rows
    ]
