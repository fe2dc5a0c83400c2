"""What all cases start from: a small data set with every label, and a run trained on it."""

from __future__ import annotations

import os
from pathlib import Path

from fuzz.cases import EVERYTHING, TINY, Inputs
from fuzz.sandbox import Case, Outcome, run
from processes.forked import PLAIN, import_all

from unified.data.shapes.config import ShapesConfig
from unified.data.shapes.write import generate


def prepare(place: Path) -> Inputs:
    """Data and run, in a folder of their own."""
    os.environ |= PLAIN
    import_all()  # once: cases are forked from this process
    generate(place / "data", ShapesConfig(train=8, val=4, size=64, seed=1))
    out = [f"data.root={place / 'data'}", "out=run"]
    made = Case("", "a run", lambda folder: ["train", *TINY, EVERYTHING, *out])
    place.joinpath("made").mkdir()
    outcome = attempt(made, place / "made")
    assert outcome.verdict.startswith("accepted"), outcome.said
    return Inputs(place / "data", place / "made" / "run")


def attempt(case: Case, folder: Path, inputs: Inputs | None = None) -> Outcome:
    """Run a case; the data and the run that all share must stay as they are."""
    return run(case, folder, (inputs.data, inputs.run) if inputs else ())
