"""The paper's five arms on shapes: same seed, same steps, whatever they say.

python tests/bench/arms.py [epochs] [seed ...]
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

from results import ROOT, table, train, write

ARMS = ("det", "jdc", "ijdc", "jde", "ijde")
COLUMNS = {
    "AP": ("detection", "AP"),
    "AP50": ("detection", "AP50"),
    "AP75": ("detection", "AP75"),
    "S": ("detection", "APs"),
    "M": ("detection", "APm"),
    "cls mAP": ("classification", "mAP"),
    "Recall@1": ("embedding", "Recall@1"),
    "mAP@R": ("embedding", "mAP@R"),
}


def cell(results: list[dict[str, Any]], task: str, metric: str) -> str:
    values = [r["metrics"][task][metric] for r in results if task in r["metrics"]]
    if not values:
        return "–"
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def main() -> None:
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    seeds = [int(s) for s in sys.argv[2:]] or [0]
    rows = []
    for arm in ARMS:
        results = [
            train(
                ROOT / "runs" / "arms" / f"{arm}-{epochs}-{seed}",
                f"experiment={arm}",
                f"seed={seed}",
                f"trainer.max_epochs={epochs}",
                "logger=none",
            )
            for seed in seeds
        ]
        rows.append(
            [arm, *(cell(results, *where) for where in COLUMNS.values())]
            + [f"{results[0]['parameters']:,}", f"{results[0]['code_parameters']:,}"]
            + [f"{statistics.mean(r['minutes'] for r in results):.1f}"]
        )
    write(
        "arms",
        "Five arms on shapes",
        " ".join(["python tests/bench/arms.py", *sys.argv[1:]]),
        [
            f"`trunk=tiny`, {epochs} epochs, seed{'s' * (len(seeds) > 1)} "
            f"{', '.join(map(str, seeds))}, metrics in percent of the epoch with the best mean of "
            "the tasks' primary metrics, on the 200 held-out images.",
            table(["arm", *COLUMNS, "parameters", "codes", "minutes"], rows),
            "One seed, so no spread was measured: differences of a point or two between arms cannot be "
            "told from chance, and the effect of the codes cannot be read from this table."
            if len(seeds) == 1
            else "± is the standard deviation over seeds.",
        ],
    )


if __name__ == "__main__":
    main()
