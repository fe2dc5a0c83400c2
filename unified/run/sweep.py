"""The scores of several runs of one command line, beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from rich.console import Console
from rich.table import Table

Job = tuple[Sequence[str], Mapping[str, Any] | None]
"""The overrides of a job, and its scores: task → metric → value; None where it failed."""


def print_sweep(jobs: Sequence[Job]) -> None:
    """A row per job, with the first metric of every task."""
    names: dict[tuple[str, str], None] = {}
    for _, scores in jobs:
        for task, values in (scores or {}).items():
            if isinstance(values, Mapping) and values:
                names[task, next(iter(values))] = None
    table = Table("job", *(f"{task} {name}" for task, name in names))
    common = set.intersection(*(set(overrides) for overrides, _ in jobs))
    for overrides, scores in jobs:
        job = " ".join(o for o in overrides if o not in common)
        cells = [_shown((scores or {}).get(task, {}).get(name)) for task, name in names]
        table.add_row(job, *(cells if scores is not None else ["failed", *cells[1:]]))
    Console().print(table)


def _shown(value: Any) -> str:
    return "–" if value is None or isnan(value) else f"{value:.4f}"
