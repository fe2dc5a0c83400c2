"""Long tail: plain training against the remedies, over seeds; and eight images of LVIS.

python tests/bench/longtail.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from results import COLOUR, REAL, ROOT, evaluate, spread, table, train, write

NAMES = ("AP", "AP50", "AP75", "APr", "APc", "APf", "AR300")
SHAPES = [
    "experiment=ilvis",
    "task=[longtail]",
    "data.root=data/longtail",
    "data.shapes.train=1000",
    "data.shapes.val=1000",
    *COLOUR,
    "augment.strong.scale=0.4",
    "data.batch_size=6",
    "logger=none",
]
"""Of 1,000 images 9 of 60 categories are in at most ten; of the 3,000 of the default none is."""
PLAIN, REPEATED = "~data.repeat.federated", "data.repeat.federated=0.05"


def epochs(count: int) -> list[str]:
    """Scored once, behind the last: no epoch is chosen by its score."""
    return [f"trainer.max_epochs={count}", f"trainer.check_val_every_n_epoch={count}"]


GOAL = [REPEATED, *epochs(33)]
ARMS = {
    "plain": ["task.longtail.equalise=0", PLAIN, *epochs(19)],
    "both": [REPEATED, *epochs(14)],
}
"""3,154 steps and 3,066: repeats make an epoch a third longer."""
SEEDS = (0, 1, 2)
LVIS = [
    "experiment=ilvis",
    "task=[longtail]",
    "data=coco",
    f"data.root={REAL / 'lvis-8'}",
    "data.train=val2017",
    "data.val=val2017",
    "data.image_size=320",
    "data.batch_size=4",
    "data.workers=0",
    "~data.repeat.federated",
    "augment=none",
    "trainer.max_epochs=250",
    "trainer.check_val_every_n_epoch=50",
    "optim.warmup_epochs=10",
    "optim.lr=0.004",
    "logger=none",
]
"""Eight images of LVIS v0.5 until they are learnt, scored on themselves."""


GROUPS = ("APr", "APc", "APf")


def row(name: str, results: dict[str, Any]) -> list[str]:
    own = results["metrics"]["longtail"]
    values = ["–" if own[n] is None else f"{own[n]:.3f}" for n in NAMES]
    return [name, *values, f"{results['minutes']}"]


def main() -> None:
    rows, learnt = [], []
    for arm, overrides in ARMS.items():
        folders = [ROOT / "runs" / f"longtail-{arm}-{seed}" for seed in SEEDS]
        runs = [
            train(folder, *SHAPES, *overrides, f"seed={seed}")
            for folder, seed in zip(folders, SEEDS, strict=True)
        ]
        minutes = np.mean([run["minutes"] for run in runs])
        rows.append([arm, *spread(runs, "longtail", *NAMES), f"{minutes:.1f}"])
        again = [evaluate(folder, Path(f"{folder}-learnt"), "data.val=train") for folder in folders]
        learnt.append([arm, *spread(again, "longtail", *GROUPS)])
    longer = train(ROOT / "runs" / "longtail-goal", *SHAPES, *GOAL)
    real = train(ROOT / "runs" / "longtail-lvis", *LVIS)
    shown = [o.replace(str(REAL), "$REAL") for o in LVIS]
    write(
        "longtail",
        "Long tail",
        "python tests/bench/longtail.py",
        [
            "`trunk=tiny`, long tail alone with codes, 60 categories after Zipf's law, scored on "
            f"1,000 held-out images, seeds {', '.join(map(str, SEEDS))}: mean ± standard deviation. "
            "*Both* is equalisation loss v2 and repeat-factor sampling.",
            table(["training", *NAMES, "minutes"], rows),
            "The same networks on the 1,000 images that they learnt from:",
            table(["training", *GROUPS], learnt),
            "On these the remedies do what they are for. On held-out images they cannot: of each rare "
            "category the generated data has one individual to learn from, and others, of other "
            "colours, to be scored on, so what repeats teach of it is mostly what it alone looks "
            "like.",
            "\n".join(f"- *{arm}*: `{' '.join(own)}`" for arm, own in ARMS.items()),
            "*both*, longer (`" + " ".join(GOAL) + "`, seed 0):",
            table(["training", *NAMES, "minutes"], [row("both", longer)]),
            "Minutes depend on what else the machine did: here two runs at a time.",
            f"All of these begin with `unified train {' '.join(SHAPES)}`.",
            "## Eight real images",
            "Learnt until they are known, and scored on themselves; they teach nothing that "
            "generalises.",
            table(["images", *NAMES, "minutes"], [row("LVIS v0.5, the 8 learnt", real)]),
            f"```\nunified train {' '.join(shown)}\n```",
        ],
    )


if __name__ == "__main__":
    main()
