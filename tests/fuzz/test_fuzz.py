"""Some of the bad and unusual inputs, of every group; `make fuzz` feeds all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fuzz.cases import Inputs, sampled
from fuzz.inputs import attempt, prepare
from fuzz.sandbox import BAD, CLEAR, RIGHT

COUNT, SEED = 60, 9


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return prepare(tmp_path_factory.mktemp("fuzz"))


def test_a_sample_of_all_cases(inputs: Inputs, tmp_path: Path) -> None:
    """No harm, no hang, no crash, no traceback, nothing accepted that is wrong."""
    verdicts: dict[str, list[str]] = {}
    for index, case in enumerate(sampled(inputs.all(), COUNT, SEED)):
        folder = tmp_path / str(index)
        folder.mkdir()
        outcome = attempt(case, folder, inputs)
        line = f"{case.group}: {case.name}: {outcome.said[-300:]}"
        verdicts.setdefault(outcome.verdict, []).append(line)
        shutil.rmtree(folder, ignore_errors=True)
    assert not {verdict: lines for verdict, lines in verdicts.items() if verdict in BAD}
    assert len(verdicts[CLEAR]) > COUNT / 4
    assert len(verdicts[RIGHT]) > COUNT / 10
