"""Feed bad and unusual inputs to real commands: `make fuzz`, or

python tests/fuzz [text that the name of a case contains] [--sample COUNT]

Ends with status 1 if a case is not as it should be, or is accepted and nobody has said why that is
right.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT / "tests")
sys.path.append(str(ROOT / "tests" / "bench"))

from fuzz.cases import Inputs, sampled  # noqa: E402
from fuzz.inputs import attempt, prepare  # noqa: E402
from fuzz.reasons import reason  # noqa: E402
from fuzz.sandbox import BAD, CLEAR, HYDRA, RIGHT, Case, Outcome  # noqa: E402
from results import table, write  # noqa: E402

SEED = 9
VERDICTS = (CLEAR, HYDRA, RIGHT, *BAD)


def main(wanted: str, sample: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        inputs = prepare(Path(place))
        cases = [c for c in inputs.all() if wanted in f"{c.group}: {c.name}"]
        outcomes = _feed(sampled(cases, sample, SEED) if sample else cases, Path(place), inputs)
    rows = _rows(outcomes)
    print(table(["group", "cases", *VERDICTS], rows))
    if not wanted and not sample:
        _report(outcomes, rows)
    unexplained = [o.case.name for o in outcomes if o.verdict == RIGHT and not reason(_name(o))]
    print(*(f"nobody has said why this is right: {name}" for name in unexplained), sep="\n")
    raise SystemExit(bool(unexplained) or any(outcome.verdict in BAD for outcome in outcomes))


def _feed(cases: list[Case], place: Path, inputs: Inputs) -> list[Outcome]:
    outcomes = []
    for index, case in enumerate(cases):
        folder = place / "cases" / str(index)
        folder.mkdir(parents=True)
        outcome = attempt(case, folder, inputs)
        outcomes.append(outcome)
        if outcome.verdict in BAD:
            last = "\n".join(line[:200] for line in outcome.said.strip().splitlines()[-4:])
            name = _name(outcome)[:200]
            print(f"[{index}] {outcome.verdict}: {name}\n{last}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
    return outcomes


def _name(outcome: Outcome) -> str:
    return f"{outcome.case.group}: {outcome.case.name}"


def _rows(outcomes: list[Outcome]) -> list[list[str]]:
    groups = list(dict.fromkeys(outcome.case.group for outcome in outcomes))
    rows = []
    for group in [*groups, "all"]:
        counts = Counter(o.verdict for o in outcomes if group in ("all", o.case.group))
        numbers = [counts[verdict] for verdict in VERDICTS]
        rows.append([group, *map(str, [sum(numbers), *numbers])])
    return rows


def _report(outcomes: list[Outcome], rows: list[list[str]]) -> None:
    left = [
        [
            o.case.group,
            o.case.name.replace("|", "/"),
            o.verdict,
            o.said.strip().splitlines()[-1][:120],
        ]
        for o in outcomes
        if o.verdict in BAD
    ]
    accepted: dict[str, list[str]] = {}
    for case in (_name(o) for o in outcomes if o.verdict == RIGHT):
        accepted.setdefault(reason(case) or "nobody has said why", []).append(f"`{case}`")
    lists = [f"*{why}* ({len(cases)}): {', '.join(cases)}" for why, cases in accepted.items()]
    write(
        "robustness",
        "Bad and unusual inputs",
        "make fuzz",
        [
            "Every case is a real command in a process of its own (`tests/fuzz`). *Clear*: one "
            "error that names the culprit and the fix. *Accepted and right*: the command ended, "
            "and what it left is complete; data that was accepted scores one against itself.",
            table(["group", "cases", *VERDICTS], rows),
            "## Not as it should be",
            table(["group", "case", "verdict", "said"], left) if left else "Nothing.",
            "## Accepted and right",
            "Why each is right (`tests/fuzz/reasons.py`):",
            *lists,
        ],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wanted", nargs="?", default="")
    parser.add_argument("--sample", type=int, default=0)
    chosen = parser.parse_args()
    main(chosen.wanted, chosen.sample)
