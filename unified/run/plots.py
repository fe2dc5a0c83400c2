"""Plots, which need no screen: losses and metrics over epochs, precision over recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

from unified.arrays import Array

matplotlib.use("Agg")
from matplotlib import pyplot as plt

__all__ = ["plot_curves", "plot_history", "plt"]


def plot_history(rows: Sequence[Mapping[str, float]], primary: Sequence[str], file: Path) -> None:
    """Training losses and validation metrics over epochs.

    Args:
        rows: of `metrics.csv`.
        primary: names of the metrics to show.
        file: of the picture.
    """
    names = sorted({name for row in rows for name in row})
    losses = [n for n in names if n.startswith("train/")]
    metrics = [n for n in names if n in primary]
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
