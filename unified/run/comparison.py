"""What a sweep has found: scores, differences and costs, as tables and a picture."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np

from unified.ablation import AblationConfig
from unified.files import whole
from unified.run.jobs import Job
from unified.run.plots import plt
from unified.run.statistics import RESAMPLES, Difference, holm, paired

SIGNIFICANT = 0.05
Scores = dict[str, dict[str, dict[str, dict[int, float]]]]
"""Arm → task → metric → seed → value."""
COSTS = {
    "parameters": ("parameters", "{:,.0f}"),
    "code_parameters": ("of codes", "{:,.0f}"),
    "flops": ("MFLOPs", "{:,.1f}"),
    "step_seconds": ("step, ms", "{:.0f}"),
    "peak_memory": ("memory, MiB", "{:,.0f}"),
    "minutes": ("minutes", "{:.1f}"),
}
"""Key of `results.json` → heading and format."""
COLOURS = {
    "better": "tab:green", "better, not after correction": "#98d594",
    "worse": "tab:red", "worse, not after correction": "#f3a9a0",
}  # fmt: skip
"""Of a verdict; others are gray."""
COLUMNS = 3
"""Of panels in the picture."""
UNITS = {"flops": 1e-6, "step_seconds": 1e3, "peak_memory": 2**-20}


@dataclass(frozen=True)
class Compared:
    """The metric that a task is compared by, in two arms, over the seeds that both have."""

    arm: str
    other: str
    task: str
    metric: str
    seeds: int
    difference: Difference
    corrected: float = nan

    @property
    def verdict(self) -> str:
        """In words."""
        if self.seeds < 2:
            return "one seed says nothing"
        if self.difference.shown and isnan(self.difference.p):
            return "the same in each seed: no test"
        if not self.difference.shown or self.difference.p >= SIGNIFICANT:
            return "no difference shown"
        way = "better" if self.difference.mean > 0 else "worse"
        return way if self.corrected < SIGNIFICANT else f"{way}, not after correction"


def compare(plan: AblationConfig, jobs: Sequence[Job], command: str, folder: Path) -> Scores:
    """Write `report.md`, `scores.csv`, `differences.csv` and `report.png`, and print the report.

    Args:
        plan, jobs: what was to be made.
        command: that made it.
        folder: of the files.
    """
    found = {(job.arm, job.seed): job.results() for job in jobs if job.finished}
    scores = scores_of(found)
    primary = {task: name for run in found.values() for task, name in run["primary"].items()}
    compared = list(differences(plan, scores, primary))
    missing = [f"{job.arm}, seed {job.seed}" for job in jobs if not job.finished]
    parts = _parts(plan, command, found, scores, primary, compared, missing)
    report = "\n\n".join(parts)
    with whole(folder / "report.md") as file:
        file.write(report + "\n")
    _write_scores(folder / "scores.csv", scores)
    _write_differences(folder / "differences.csv", compared)
    if compared:
        plot_differences(compared, folder / "report.png")
    print(f"{report}\n\nreport: {folder / 'report.md'}")
    return scores


def scores_of(found: Mapping[tuple[str, int], Mapping[str, Any]]) -> Scores:
    """All that was scored; what a split has nothing of is left out."""
    scores: Scores = {}
    for (arm, seed), results in found.items():
        for task, own in results["metrics"].items():
            for metric, value in own.items():
                if value is not None:
                    of_task = scores.setdefault(arm, {}).setdefault(task, {})
                    of_task.setdefault(metric, {})[seed] = float(value)
    return scores


def differences(
    plan: AblationConfig, scores: Scores, primary: Mapping[str, str]
) -> Iterator[Compared]:
    """Every comparison of every task by its primary metric, p corrected for their number."""
    rows: list[Compared] = []
    for arm, other in plan.comparisons():
        for task, metrics in scores.get(arm, {}).items():
            if not (plan.counts(arm, task) and plan.counts(other, task)):
                continue
            metric = primary[task]
            own, others = (
                metrics.get(metric, {}),
                scores.get(other, {}).get(task, {}).get(metric, {}),
            )
            seeds = sorted(own.keys() & others.keys())
            if seeds:
                difference = paired([own[s] for s in seeds], [others[s] for s in seeds])
                rows.append(Compared(arm, other, task, metric, len(seeds), difference))
    corrected = holm([row.difference.p for row in rows])
    for row, p in zip(rows, corrected, strict=True):
        yield Compared(row.arm, row.other, row.task, row.metric, row.seeds, row.difference, p)


def _parts(
    plan: AblationConfig,
    command: str,
    found: Mapping[tuple[str, int], Mapping[str, Any]],
    scores: Scores,
    primary: Mapping[str, str],
    compared: Sequence[Compared],
    missing: Sequence[str],
) -> Iterator[str]:
    yield f"# Ablation: {plan.name}"
    seeds = ", ".join(map(str, plan.seeds))
    wanted = len(found) + len(missing)
    yield f"Made by `{command}`; {len(found)} of {wanted} runs, seeds {seeds}."
    if missing:
        yield f"Not there: {'; '.join(missing)}."
    yield (
        "The best epoch is chosen by `data.val`, and scored once on the split "
        f"`{plan.test}`." if plan.test else
        "The best epoch is chosen and scored on the same images: scores are too good, in all arms."
    )  # fmt: skip
    if not found:
        return
    rows = [
        [arm, *(_spread(scores[arm].get(t, {}).get(m, {}).values()) for t, m in primary.items())]
        for arm in plan.arms if arm in scores
    ]  # fmt: skip
    yield "## Scores\n\nMean ± standard deviation over the seeds."
    yield _table(["arm", *(f"{task} {metric}" for task, metric in primary.items())], rows)
    if compared:
        yield (
            "## Differences\n\nPaired by seed: mean, 95 % of the means of "
            f"{RESAMPLES:,} bootstrap samples, p of Student's paired test, and p corrected for all "
            f"{len(compared)} comparisons (Holm). Intervals of few seeds are too narrow: no "
            f"difference is shown where they hold zero or p is {SIGNIFICANT} or more."
        )
        yield _table(
            ["arm", "against", "score", "seeds", "difference", "95 %", "p", "corrected", ""],
            [_difference_row(row) for row in compared],
        )
        yield "![differences](report.png)"
    yield "## Cost\n\nMedians over the seeds; a step by the clock, with all that ran beside it."
    yield _table(
        ["arm", *(heading for heading, _ in COSTS.values())],
        [[arm, *_costs([r for (a, _), r in found.items() if a == arm])] for arm in scores],
    )
    settings = "\n".join(f"{arm}: {' '.join(own)}" for arm, own in plan.arms.items())
    yield f"## Arms\n\n```\n{settings}\nall: {' '.join(plan.common)}\n```"


def _spread(values: Any) -> str:
    own = list(values)
    if not own:
        return "–"
    return f"{np.mean(own):.4f}" + (f" ± {np.std(own, ddof=1):.4f}" if len(own) > 1 else "")


def _difference_row(row: Compared) -> list[str]:
    d = row.difference
    interval = "–" if isnan(d.low) else f"{d.low:+.4f} to {d.high:+.4f}"
    tests = ["–" if isnan(p) else f"{p:.3f}" for p in (d.p, row.corrected)]
    return [row.arm, row.other, f"{row.task} {row.metric}", str(row.seeds), f"{d.mean:+.4f}",
            interval, *tests, row.verdict]  # fmt: skip


def _costs(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for key, (_, shown) in COSTS.items():
        values = [run[key] for run in runs if run.get(key) is not None]
        yield shown.format(np.median(values) * UNITS.get(key, 1)) if values else "–"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def _write_scores(file: Path, scores: Scores) -> None:
    with whole(file) as stream:
        writer = csv.writer(stream)
        writer.writerow(["arm", "task", "metric", "seed", "value"])
        writer.writerows(
            [arm, task, metric, seed, value]
            for arm, tasks in scores.items() for task, metrics in tasks.items()
            for metric, seeds in metrics.items() for seed, value in seeds.items()
        )  # fmt: skip


def _write_differences(file: Path, compared: Sequence[Compared]) -> None:
    names = ["arm", "against", "task", "metric", "seeds",
             "mean", "low", "high", "p", "corrected", "verdict"]  # fmt: skip
    with whole(file) as stream:
        writer = csv.writer(stream)
        writer.writerow(names)
        for row in compared:
            d = row.difference
            writer.writerow([row.arm, row.other, row.task, row.metric, row.seeds,
                             d.mean, d.low, d.high, d.p, row.corrected, row.verdict])  # fmt: skip


def plot_differences(compared: Sequence[Compared], file: Path) -> None:
    """Every difference with its interval, a panel per task."""
    tasks = list(dict.fromkeys((row.task, row.metric) for row in compared))
    most = max(sum(r.task == task for r in compared) for task, _ in tasks)
    columns, lines = min(COLUMNS, len(tasks)), -(-len(tasks) // COLUMNS)
    figure, axes = plt.subplots(
        lines, columns, figsize=(4.5 * columns, (1.5 + 0.35 * most) * lines),
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for axis in axes.flat[len(tasks) :]:
        axis.remove()
    for axis, (task, metric) in zip(axes.flat, tasks, strict=False):
        own = [row for row in compared if row.task == task][::-1]
        for place, row in enumerate(own):
            d = row.difference
            colour = COLOURS.get(row.verdict, "tab:gray")
            if not isnan(d.low):
                axis.plot([d.low, d.high], [place, place], color=colour)
            axis.plot(d.mean, place, "o", color=colour)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_yticks(range(len(own)), [f"{row.arm} − {row.other}" for row in own])
        axis.set(title=f"{task} {metric}", xlabel="difference, 95 %", ylim=(-0.7, len(own) - 0.3))
        axis.locator_params(axis="x", nbins=5)
        axis.grid(alpha=0.3, axis="x")
    figure.savefig(file, dpi=110)
    plt.close(figure)
