"""Why a task suffers: looks at gradients and codes on demand, as tables and a picture."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table
from torch import Tensor

from unified.batch import Batch
from unified.files import whole
from unified.model import UnifiedModel
from unified.module import UnifiedModule
from unified.run.gradients import COSINE, TRUNK, Row, code_numbers, compared, mean_pulls, pulls
from unified.run.plots import plt


class Diagnostics(Callback):
    """Looks at gradients and codes every few steps; training is as it would be without.

    A look computes a step anew, on a copy of the network, with a backward pass for every task. It
    is of the first process's inputs, where there are several.

    Args:
        folder: of the run, for `gradients.csv`, `codes.csv` and their picture.
        every: steps from one look to the next.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every
        self.pulls: list[Row] = []
        self.codes: list[Row] = []
        self.first: dict[str, Tensor] = {}
        self.last = -1

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        step = trainer.global_step
        # Batches that are accumulated are one step.
        if step % self.every or step == self.last:
            return
        assert isinstance(pl_module, UnifiedModule)
        self.last = step
        with trainer.precision_plugin.forward_context():
            found = pulls(pl_module, batch)
        self.pulls += [{"step": step, **row} for row in compared(found)]
        self.codes += [{"step": step, **row} for row in self._moved(pl_module.model)]
        if trainer.is_global_zero:
            _write(self.folder / "gradients.csv", self.pulls)
            if self.codes:
                _write(self.folder / "codes.csv", self.codes)

    def _moved(self, model: UnifiedModel) -> list[Row]:
        """Size of every code, and how far it is from where it was at the first look."""
        rows = []
        for name, numbers in code_numbers(model).items():
            drift = numbers - self.first.setdefault(name, numbers).to(numbers.device)
            rows.append({"code": name, "norm": float(numbers.norm()), "drift": float(drift.norm())})
        return rows

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and self.pulls:
            plot_pulls(self.pulls, self.codes, self.folder / "gradients.png")
            print_pulls(self.pulls)

    def state_dict(self) -> dict[str, Any]:
        first = {name: numbers.cpu() for name, numbers in self.first.items()}
        return {"pulls": self.pulls, "codes": self.codes, "first": first, "last": self.last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.pulls, self.codes = list(state_dict["pulls"]), list(state_dict["codes"])
        self.first, self.last = dict(state_dict["first"]), int(state_dict["last"])


def print_pulls(rows: Sequence[Row]) -> None:
    """A table: of whose gradients the trunk is made, and which tasks pull against each other."""
    places = list(dict.fromkeys(row["where"] for row in rows))
    means = {place: mean_pulls(rows, place) for place in places}
    sums = {place: sum(o["norm"] for o in own.values()) or 1.0 for place, own in means.items()}
    table = Table(title="gradients on the trunk, the later half of the run")
    for heading in ("task", "norm", *(f"{place} %" for place in places), "most against"):
        table.add_column(
            heading, justify="left" if heading in ("task", "most against") else "right"
        )
    for name, own in means[TRUNK].items():
        shares = [f"{100 * means[p][name]['norm'] / sums[p]:.0f}" for p in places]
        others = {o: own[f"{COSINE}{o}"] for o in means[TRUNK] if o != name}
        worst = min(others, key=others.__getitem__, default=None)
        against = "–" if worst is None else f"{worst} ({others[worst]:+.2f})"
        table.add_row(name, f"{own['norm']:.4g}", *shares, against)
    Console().print(table)


def plot_pulls(pulled: Sequence[Row], codes: Sequence[Row], file: Path) -> None:
    """Norms over time and cosines on the trunk, shares of every place, and how far codes moved."""
    figure, axes = plt.subplots(2, 2, figsize=(13, 9), layout="constrained")
    names = list(mean_pulls(pulled, TRUNK))
    colours = {name: f"C{place}" for place, name in enumerate(names)}
    _plot_norms(axes[0, 0], pulled, colours)
    _plot_cosines(axes[0, 1], mean_pulls(pulled, TRUNK))
    _plot_shares(axes[1, 0], pulled, colours)
    _plot_drift(axes[1, 1], codes, colours)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _plot_norms(axis: Any, pulled: Sequence[Row], colours: Mapping[str, str]) -> None:
    for name, colour in colours.items():
        own = [r for r in pulled if (r["where"], r["task"]) == (TRUNK, name) and r["norm"] > 0]
        axis.plot([r["step"] for r in own], [r["norm"] for r in own], color=colour, label=name)
    axis.set(title="gradient on the trunk", xlabel="step", ylabel="norm", yscale="log")
    axis.legend(fontsize=8)


def _plot_cosines(axis: Any, means: Mapping[str, Mapping[str, float]]) -> None:
    names = list(means)
    cosines = [[means[one][f"{COSINE}{other}"] for other in names] for one in names]
    axis.imshow(cosines, cmap="RdBu", vmin=-1, vmax=1)
    for i, row in enumerate(cosines):
        for j, value in enumerate(row):
            if i != j:
                axis.text(j, i, f"{value:+.2f}", ha="center", va="center", fontsize=8)
    axis.set_title("cosines on the trunk, later half")
    axis.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axis.set_yticks(range(len(names)), names)


def _plot_shares(axis: Any, pulled: Sequence[Row], colours: Mapping[str, str]) -> None:
    places = list(dict.fromkeys(row["where"] for row in pulled))
    means = [mean_pulls(pulled, place) for place in places]
    sums = [sum(own["norm"] for own in of_place.values()) or 1.0 for of_place in means]
    bottom = [0.0] * len(places)
    for name, colour in colours.items():
        height = [own[name]["norm"] / total for own, total in zip(means, sums, strict=True)]
        axis.bar(places, height, bottom=bottom, color=colour)
        bottom = [b + h for b, h in zip(bottom, height, strict=True)]
    axis.set(title="shares of the norms, later half", ylim=(0, 1))


def _plot_drift(axis: Any, codes: Sequence[Row], colours: Mapping[str, str]) -> None:
    for code in dict.fromkeys(row["code"] for row in codes):
        own = [row for row in codes if row["code"] == code]
        colour = colours[code.partition("/")[0]]
        axis.plot([r["step"] for r in own], [r["drift"] for r in own], color=colour)
    axis.set(title="codes: distance from the first look", xlabel="step")


def _write(file: Path, rows: Sequence[Row]) -> None:
    with whole(file) as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
