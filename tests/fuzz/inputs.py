"""What all cases start from: a small data set with every label, and a run trained on it."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from fuzz.cases import EVERYTHING, TINY, Inputs
from fuzz.sandbox import Case, Outcome, run

from unified.data.shapes.config import ShapesConfig
from unified.data.shapes.write import generate


def warm() -> None:
    """Import what commands import, once: cases are forked from this process."""
    os.environ |= {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    torch.set_num_threads(1)
    import faster_coco_eval  # noqa: F401
    import matplotlib.pyplot  # noqa: F401

    import unified.run.evaluate
    import unified.run.info
    import unified.run.predict
    import unified.run.train  # noqa: F401


def prepare(place: Path) -> Inputs:
    """Data and run, in a folder of their own."""
    warm()
    generate(place / "data", ShapesConfig(train=8, val=4, size=64, seed=1))
    out = [f"data.root={place / 'data'}", "out=run"]
    made = Case("", "a run", lambda folder: ["train", *TINY, EVERYTHING, *out])
    place.joinpath("made").mkdir()
    outcome = attempt(made, place / "made")
    assert outcome.verdict.startswith("accepted"), outcome.said
    return Inputs(place / "data", place / "made" / "run")


def attempt(case: Case, folder: Path, inputs: Inputs | None = None) -> Outcome:
    """Run a case; the data and the run that all share must stay as they are."""
    files = [f for base in (inputs.data, inputs.run) for f in base.rglob("*")] if inputs else []
    kept = {file: file.read_bytes() for file in files if file.is_file()}
    return run(case, folder, kept)
