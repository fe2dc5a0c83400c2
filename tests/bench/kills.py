"""Kill real runs at random moments, resume them, and compare with the run left alone.

python tests/bench/kills.py [kills per configuration] [configuration, for a table without a page]
"""

from __future__ import annotations

import random
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

from results import ROOT, table, write

sys.path.insert(0, str(ROOT / "tests"))
from processes.killing import CASES, COMMON, differences, finish, kill_and_resume

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)
"""Every fourth is asked to stop, the others are not."""

HEADER = ["configuration", "overrides", "what was interrupted", "equal"]


def main(kills: int = 20, only: str | None = None) -> None:
    rows = []
    chosen = {case: own for case, own in CASES.items() if only in (case, None)}
    for case, own in chosen.items():
        random.seed(case)
        overrides, stages, equal = (*COMMON, *own), Counter[str](), 0
        with tempfile.TemporaryDirectory() as place:
            seconds = finish(Path(place) / "whole", *overrides, "out=run")
            for index in range(kills):
                folder = Path(place) / str(index)
                moment = random.uniform(0.0, 1.05) * seconds
                number = SIGNALS[index % len(SIGNALS)]
                stages[kill_and_resume(folder, overrides, moment, number)] += 1
                gaps = differences(Path(place) / "whole" / "run", folder / "run")
                equal += not gaps
                print(f"{case} {index}: {number.name} after {moment:.1f} s {gaps[:3]}", flush=True)
        reached = ", ".join(f"{stage} {count}" for stage, count in sorted(stages.items()))
        rows.append([case, " ".join(own) or "none", reached, f"{equal} of {kills}"])
    if only:
        print(table(HEADER, rows))
        return
    write(
        "kills",
        "Killed and resumed",
        "python tests/bench/kills.py",
        [
            "Runs on generated shapes with two worker processes, ended at a random moment between "
            "their start and their last line: three of four by SIGKILL, one by SIGTERM. Then "
            "`unified train resume=RUN`, or, where the run had not begun, the same command again. "
            "Equal: weights, averaged weights, optimiser and schedule of `last.ckpt`, weights of "
            "`best.ckpt`, every cell of `metrics.csv` and every final score, to the bit.",
            table(HEADER, rows),
        ],
    )


if __name__ == "__main__":
    main(*(int(a) if a.isdigit() else a for a in sys.argv[1:]))
