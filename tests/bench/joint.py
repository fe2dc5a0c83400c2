"""What joint training costs each task, and what might cure it: a run for every hypothesis.

python tests/bench/joint.py
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from omegaconf import OmegaConf
from results import ROOT, table, train, write

COMMON = [
    "augment.strong.flip=0",
    "data.image_size=96",
    "data.batch_size=8",
    "trainer.max_epochs=3",
    "trainer.check_val_every_n_epoch=3",
    "logger=none",
]
ARMS = OmegaConf.load(ROOT / "conf" / "ablation" / "all_tasks.yaml").arms
OTHERS = ("keypoints", "longtail", "mtl", "imtl")
ALONE = {task: list(arm) for task, arm in ARMS.items() if task not in OTHERS}
"""Each task with what it requires; keypoints and long tail take part in all nine and are not run
alone."""
IMTL = list(ARMS.imtl)
BALANCE = ["weighting=balance"]
AS_ALONE = ["optim.trunk_lr=1"]
LOOKED = "diagnose_every_n_steps=125"
BOXES = "+weighting.tasks.detection=4"
NINE = {
    "fixed": ["weighting=fixed", *AS_ALONE],
    "balance": [*BALANCE, *AS_ALONE],
    "balance, lr 0.008": [*BALANCE, *AS_ALONE, "optim.lr=0.008", LOOKED],
    "balance, detection 4, embedding 2, caption 2, trunk's lr 0.012": [
        *BALANCE, BOXES, "+weighting.tasks.embedding=2", "+weighting.tasks.caption=2", "optim.trunk_lr=3",
    ],
    "fixed, trunk's lr 0.012": ["weighting=fixed", "optim.trunk_lr=3"],
    "UPGrad, trunk's lr 0.012": ["weighting=torchjd", "optim.trunk_lr=3"],
}  # fmt: skip
"""What all tasks in one network, with codes, are trained with besides."""
RATE = ["experiment=det", "optim.lr=0.008"]
Scores = Mapping[str, float]
Hypothesis = tuple[str, str, str, str, tuple[str, ...], str]
"""What was thought, the run that could refute it, from which run to which, of which tasks, and what
that says."""

SETTING = f"""`trunk=tiny`, 3,000 generated images seen three times at 96 px in steps of eight, no \
mirroring, seed 0; scored once, behind the last epoch, on the 200 images of `val`, which choose here \
and report nothing elsewhere. One run each: differences of a few percent are noise (five seeds of \
detection spread by 5 %, [report](ablations/multitask/report.md)). In brackets the part of the score \
alone, where a task has with it only what it requires, without codes, at the rate 0.004. Keypoints \
and long tail take part, were not run alone, and are not compared. All have \
`{" ".join(COMMON)}`, where nothing else is said."""
PLAIN = "nine fixed"
EQUAL, TWICE = "nine balance", "nine balance, lr 0.008"
BEST = "nine balance, detection 4, embedding 2, caption 2, trunk's lr 0.012"
HYPOTHESES: list[Hypothesis] = [
    (
        "The loudest task owns the step", "equal shares for all at the boundary (`balance`)",
        PLAIN, EQUAL, ("detection", "embedding"), "**in part**",
    ),
    (
        "Divided steps want to be larger", "twice the rate for all",
        EQUAL, TWICE, ("detection", "embedding", "caption"),
        "**confirmed** for detection; the decoder of captions bears no more",
    ),
    (
        "… in joint training alone", "detection alone at twice the rate",
        "alone detection", "faster detection", ("detection",),
        "**refuted**: the default is low for runs as short as these",
    ),
    (
        "… the trunk's alone; and five tasks use detection's boxes, for which one share in nine is too "
        "little",
        "three times the rate for the trunk, four shares for detection, two each for embedding and "
        "captions",
        PLAIN, BEST, ("detection", "instance", "embedding", "caption"),
        "**the best mean of what was tried**: `weighting=balance_joint`, of `mtl` and `imtl`, and "
        "`optim=adamw_joint`",
    ),
    (
        "With that rate nine tasks need no shares", "fixed weights at it", BEST,
        "nine fixed, trunk's lr 0.012", ("detection", "instance", "embedding", "caption"),
        "**refuted**",
    ),
    (
        "What is left is conflict, which UPGrad of torchjd resolves", "UPGrad at equal cost", BEST,
        "nine UPGrad, trunk's lr 0.012", ("detection", "instance", "embedding", "caption"),
        "**refuted**",
    ),
]  # fmt: skip
"""What was thought, the run that could refute it, what is compared, and what it says."""
REMAINS = """## What remains

Tasks do not contradict each other: of [the cosines of their gradients on the trunk](../images/gradients.png), \
of the later half of `balance, lr 0.008`, none is below −0.11; captions, classification and embedding stand \
nearly at right angles to the others. They divide one step. What tells individuals apart, above all colour, tells no classes here; \
[two tasks](pair.md) show what that costs. \
The recipe is the best supported one, and no proof that joint training pays: that took seeds, singles \
at the trunk's rate and images that chose nothing, and shows one task's gain; no other difference outlives the \
correction ([`all_tasks`](ablations/all_tasks/report.md)).

Not tried: loss weights tuned task by task, batch-norm statistics of each task, other ways of torchjd than UPGrad."""


def scores(results: Mapping[str, Any]) -> dict[str, float]:
    """Task → the metric that it is compared by."""
    return {
        task: results["metrics"][task][name]
        for task, name in results["primary"].items()
        if task in ALONE
    }


def run(name: str, overrides: list[str]) -> dict[str, float]:
    folder = ROOT / "runs" / "joint" / "".join(c if c.isalnum() else "-" for c in name)
    found = scores(train(folder, *COMMON, *overrides))
    if LOOKED in overrides:
        shutil.copy(folder / "gradients.png", ROOT / "docs" / "images")
    return found


def rows(found: Mapping[str, Scores], alone: Scores) -> list[list[str]]:
    """Of every run, what each task has and which part of its score alone that is."""
    shown = []
    for name, own in found.items():
        parts = {task: value / alone[task] for task, value in own.items()}
        cells = [f"{own[t]:.3f} ({parts[t]:.0%})" if t in own else "–" for t in alone]
        shown.append([name, *cells, f"{np.mean(list(parts.values())):.0%}"])
    return shown


def results(hypotheses: Sequence[Hypothesis], found: Mapping[str, Scores]) -> str:
    """Of every hypothesis, what its run says."""
    return table(
        ["hypothesis", "the run that could refute it", "from → to", ""],
        [
            [
                thought, how,
                ", ".join(f"{t} {found[before][t]:.3f} → {found[after][t]:.3f}" for t in tasks),
                verdict,
            ]
            for thought, how, before, after, tasks, verdict in hypotheses
        ],
    )  # fmt: skip


def draw(found: Mapping[str, Scores], alone: Scores) -> None:
    """Detection against all that is learnt beside it, as parts of what they reach alone."""
    figure, axis = plt.subplots(figsize=(8, 4))
    for name, own in found.items():
        others = [value / alone[task] for task, value in own.items() if task != "detection"]
        axis.plot(own["detection"] / alone["detection"], np.mean(others), "o", label=name)
    axis.axvline(1, color="grey", linewidth=0.8)
    axis.axhline(1, color="grey", linewidth=0.8)
    axis.set(xlabel="detection ÷ alone", ylabel="mean of the others ÷ alone")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(ROOT / "docs" / "images" / "joint.png", dpi=110, bbox_inches="tight")


def main() -> None:
    every = {task: run(f"alone {task}", own) for task, own in ALONE.items()}
    alone = {task: own[task] for task, own in every.items()}
    nine = {name: run(f"nine {name}", [*IMTL, *own]) for name, own in NINE.items()}
    draw(nine, alone)
    first = ["each alone", *(f"{value:.3f}" for value in alone.values()), ""]
    found = {f"alone {task}": own for task, own in every.items()}
    found |= {f"nine {name}": own for name, own in nine.items()}
    found |= {"faster detection": run("faster detection", RATE)}
    write(
        "joint",
        "What joint training costs, and what cures it",
        "python tests/bench/joint.py",
        [
            SETTING,
            table(["nine tasks in one", *alone, "mean"], [first, *rows(nine, alone)]),
            "![Detection against the others](../images/joint.png)",
            "## Hypotheses",
            results(HYPOTHESES, found),
            REMAINS,
        ],
    )


if __name__ == "__main__":
    main()
