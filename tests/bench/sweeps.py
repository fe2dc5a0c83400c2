"""Ablations on generated data, and what they say beside the paper.

python tests/bench/sweeps.py [NAME …]
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from typing import Any

from results import ROOT, table, write

SMALL = [
    "data.image_size=96",
    "trainer.max_epochs=3",
    "trainer.check_val_every_n_epoch=3",
    "trainer.enable_progress_bar=false",
]
SWEEPS = {
    "multitask": ["ablation=multitask", *SMALL],
    "multitask_larger": [
        "ablation=multitask", *SMALL, "data.image_size=128", "ablation.seeds=[0,1,2]",
        "~ablation.arms.jdc", "~ablation.arms.ijdc", "~ablation.against.ijdc",
    ],
    "feature_alignment": ["ablation=feature_alignment", *SMALL, "ablation.seeds=[2,3,4]"],
    "prediction_refinement": ["ablation=prediction_refinement", *SMALL, "ablation.seeds=[1,2,3]"],
    "all_tasks": ["ablation=all_tasks", *SMALL, "data.batch_size=8"],
}  # fmt: skip
"""Page → overrides: the sweep's file, and what all of its arms have."""
PAGES = ROOT / "docs" / "results" / "ablations"
FILES = ("report.md", "report.png", "scores.csv", "differences.csv")
PAPER = [
    ("JDC − detection alone", -0.3, "multitask", "jdc", "det"),
    ("iJDC − JDC", 0.4, "multitask", "ijdc", "jdc"),
    ("iJDC − detection alone", 0.1, "multitask", "ijdc", "det"),
    ("JDE − detection alone", 0.1, "multitask", "jde", "det"),
    ("iJDE − JDE", 0.2, "multitask", "ijde", "jde"),
    ("iJDE − detection alone", 0.3, "multitask", "ijde", "det"),
    ("feature alignment by addition", 0.1, "feature_alignment", "add", "none"),
    ("feature alignment by multiplication", -0.4, "feature_alignment", "mul", "none"),
    ("feature alignment by concatenation", 0.0, "feature_alignment", "concat", "none"),
    ("feature alignment, neural network", 0.0, "feature_alignment", "network", "none"),
    ("feature alignment, factorisation", 0.2, "feature_alignment", "factorization", "none"),
    ("prediction refinement by addition", 0.0, "prediction_refinement", "add", "none"),
    ("prediction refinement by multiplication", 0.2, "prediction_refinement", "mul", "none"),
]
"""What is compared, the paper's difference in box AP (percent, one run each), and ours."""


def sweep(name: str) -> None:
    """Run one, or go on with it, and keep its report."""
    folder = f"runs/ablations/{name}"
    command = [sys.executable, "-m", "unified.cli", "ablate", *SWEEPS[name], f"out={folder}"]
    subprocess.run(command, cwd=ROOT, check=True)
    (PAGES / name).mkdir(parents=True, exist_ok=True)
    for file in FILES:
        shutil.copy(ROOT / folder / file, PAGES / name)


def found(name: str) -> dict[tuple[str, str], dict[str, Any]]:
    """(arm, other) → the difference in box AP."""
    file = PAGES / name / "differences.csv"
    if not file.is_file():
        return {}
    with file.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["task"] == "detection"]
    return {(row["arm"], row["against"]): row for row in rows}


def beside(name: str, ours: dict[str, Any] | None) -> list[str]:
    """Our difference with its interval, and which way it shows."""
    if ours is None:
        return [name, "", "not run", "", "", ""]
    mean, low, high = (100 * float(ours[key]) for key in ("mean", "low", "high"))
    interval = f"{low:+.2f} to {high:+.2f}"
    link = f"[{name}](ablations/{name}/report.md)"
    p = float(ours["corrected"])
    return [link, ours["seeds"], f"{mean:+.2f}", interval, f"{p:.3f}", ours["verdict"]]


def compared() -> list[list[str]]:
    """Every difference of the paper beside that of each sweep with its arms."""
    return [
        [what, f"{paper:+.1f}", *beside(name, found(name).get((arm, other)))]
        for what, paper, ablation, arm, other in PAPER
        for name, words in SWEEPS.items()
        if words[0] == f"ablation={ablation}" and f"~ablation.arms.{arm}" not in words
    ]


def page() -> None:
    """Write what the reports that are there say beside the paper."""
    header = ["difference", "paper", "sweep", "seeds", "ours", "95 %", "corrected p", ""]
    write(
        "paper",
        "The paper's comparisons, and ours",
        "python tests/bench/sweeps.py",
        [
            "Differences in box AP, in percent. The paper (YOLOR, table 3 and the tables of operators "
            "and decoders): YOLOv4-CSP and its fast variant on COCO at 640 px, one run each, no "
            "variance reported. Ours: the generated data and `trunk=tiny`, paired by seed, 95 % "
            "bootstrap interval, p corrected for all comparisons of its sweep. A network has seen 9,000 "
            "images of 96 px, or of 128 px (`multitask_larger`); it is a fiftieth as large. It cannot "
            "refute what one run on COCO shows, nor the other way round: read it as how large "
            "a difference would have to be here to be seen.",
            table(header, compared()),
        ],
    )


def main() -> None:
    for name in sys.argv[1:] or SWEEPS:
        sweep(name)
    page()


if __name__ == "__main__":
    main()
