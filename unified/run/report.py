"""What a scored run leaves behind for people: results, pictures, a table."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from unified import __version__
from unified.data.datamodule import DataModule
from unified.data.dataset import ViewDataset
from unified.data.images import read_image
from unified.files import whole
from unified.implicit.bank import codes_of
from unified.inference import Predictor
from unified.module import UnifiedModule
from unified.run.cost import flops_of, measure_cost
from unified.run.history import read_history
from unified.run.pictures import draw_comparison, save_picture, tile
from unified.run.plots import plot_curves, plot_history

RESULTS = "results.json"
PICTURED = 8
Scores = Mapping[str, Mapping[str, float]]


def report(
    folder: Path,
    module: UnifiedModule,
    dataset: ViewDataset,
    scores: Scores,
    facts: Mapping[str, Any],
) -> None:
    """All that belongs to a scored network: files, curves, pictures, a table on the terminal."""
    config = module.config
    named = {task: {n: None if isnan(v) else v for n, v in s.items()} for task, s in scores.items()}
    about = {name: said for name, m in module.metrics.items() if (said := m.about())}
    scored = {"scored": about} if about else {}
    content = {  # of the network as it is trained: pictures are of a fused one
        "metrics": named,
        "primary": {name: metric.primary for name, metric in module.metrics.items()},
        **scored,
        **facts_of(module),
        "flops": flops_of(measure_cost(module.model, config.data.image_size)),
        **facts,
    }
    for name, metric in module.metrics.items():
        metric.write(folder)
        curves = metric.curves()
        if curves:
            plot_curves(curves, f"{name}: precision and recall", folder / f"{name}_curves.png")
    table = folder / "metrics.csv"
    if table.is_file():
        primary = [f"val/{name}/{metric.primary}" for name, metric in module.metrics.items()]
        plot_history(read_history(table), primary, folder / "curves.png")
    predictor = Predictor(module.model, module.data, device())
    picture = write_comparisons(folder, predictor, dataset, config.min_score)
    with whole(folder / RESULTS) as file:  # the last of all files: it says that the run is complete
        json.dump(content, file, indent=2, allow_nan=False)
    epoch = f" (best epoch: {facts['best_epoch']})" if "best_epoch" in facts else ""
    print_scores(scores, f"{config.name}: {', '.join(config.task)}{epoch}")
    for name, said in about.items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in said.items()))
    print(f"run: {folder}\npicture: {picture}")


def opening(module: UnifiedModule, data: DataModule, where: str) -> Iterator[str]:
    """What is about to be learnt, of what, and where."""
    facts = facts_of(module)
    assert data.train_split is not None
    spaces = data.train_split.sources.items()
    kinds = ", ".join(
        f"{len(s.space)} of {kind}" if hasattr(s.space, "__len__") else kind for kind, s in spaces
    )
    yield (
        f"images: {len(data.train_split)} to learn from, {len(data.val_split)} to score; "
        f"classes: {kinds}"
    )
    codes = f"{facts['code_parameters']:,} of codes" if facts["code_parameters"] else "no codes"
    yield f"parameters: {facts['parameters']:,}, {codes}; device: {where}"


def facts_of(module: UnifiedModule) -> dict[str, Any]:
    """What was run, of which size, with which versions."""
    config, model = module.config, module.model
    codes = {id(p): p for _, code in codes_of(model) for p in code.parameters()}
    versions = {
        "unified": __version__, "torch": torch.__version__, "python": platform.python_version()
    }  # fmt: skip
    return {
        "name": config.name,
        "seed": config.seed,
        "tasks": list(module.tasks),
        "parameters": sum(p.numel() for p in model.parameters()),
        "code_parameters": sum(p.numel() for p in codes.values()),
        "versions": versions,
    }


def write_comparisons(
    folder: Path, predictor: Predictor, dataset: ViewDataset, min_score: float
) -> Path:
    """`predictions.jpg`: ground truth beside predictions for some validation images."""
    split = dataset.split
    rows = np.linspace(0, len(split) - 1, min(PICTURED, len(split))).astype(int).tolist()
    truths = {task.truth.kind for task in predictor.model.named_tasks().values()}
    pictures = []
    for index in rows:
        rgb = read_image(split.image_file(index))
        known = {kind: split.result(kind, index) for kind in sorted(truths)}
        truth = {kind: result for kind, result in known.items() if result is not None}
        plain = dataset[(0, index)][:1]
        (found,) = predictor.predict_inputs(dataset.collate([plain]), min_score)
        pictures.append(draw_comparison(rgb, truth, found))
    file = folder / "predictions.jpg"
    save_picture(tile(pictures, columns=2), file)
    return file


def print_scores(scores: Scores, title: str) -> None:
    """One table with every task's metrics."""
    table = Table(title=title)
    for heading in ("task", "metric"):
        table.add_column(heading)
    table.add_column("value", justify="right")
    for task, values in scores.items():
        for index, (name, value) in enumerate(values.items()):
            shown = "–" if isnan(value) else f"{value:.4f}"
            table.add_row(task if index == 0 else "", name, shown)
        table.add_section()
    Console().print(table)


def device() -> torch.device:
    """The first accelerator where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
