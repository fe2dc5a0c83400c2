"""Long tail: plain training against the remedies, over seeds; and eight images of LVIS.

python tests/bench/longtail.py
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from results import COLOUR, REAL, ROOT, table, train, write

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
    "trainer.check_val_every_n_epoch=100",
    "logger=none",
]
"""Of 1,000 images 8 of 60 categories are in at most ten; of the 3,000 of the default none is."""
REPEATED = "data.repeat.federated=0.05"
GOAL = [REPEATED, "trainer.max_epochs=33"]
ARMS = {
    "plain": ["task.longtail.equalise=0", "~data.repeat.federated", "trainer.max_epochs=19"],
    "equalised": ["~data.repeat.federated", "trainer.max_epochs=19"],
    "repeated": ["task.longtail.equalise=0", REPEATED, "trainer.max_epochs=14"],
    "both": [REPEATED, "trainer.max_epochs=14"],
}
"""Equal numbers of steps: repeats make an epoch a third longer."""
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


def spread(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Mean ± standard deviation over the seeds, of every number."""
    values = np.array([[run["metrics"]["longtail"][n] for n in NAMES] for run in runs], float)
    return [
        f"{m:.3f} ± {s:.3f}" for m, s in zip(values.mean(0), values.std(0, ddof=1), strict=True)
    ]


def main() -> None:
    rows = []
    for arm, overrides in ARMS.items():
        runs = [
            train(ROOT / "runs" / f"longtail-{arm}-{seed}", *SHAPES, *overrides, f"seed={seed}")
            for seed in SEEDS
        ]
        minutes = np.mean([run["minutes"] for run in runs])
        rows.append([arm, *spread(runs), f"{minutes:.1f}"])
    real = train(ROOT / "runs" / "longtail-lvis", *LVIS)
    own = real["metrics"]["longtail"]
    values = [own[n] for n in NAMES]
    shown = [o.replace(str(REAL), "$REAL") for o in LVIS]
    write(
        "longtail",
        "Long tail",
        "python tests/bench/longtail.py",
        [
            "`trunk=tiny`, long tail alone with codes, 60 categories after Zipf's law, scored on "
            f"200 held-out images, seeds {', '.join(map(str, SEEDS))}: mean ± standard deviation. "
            "*equalised* is `task.longtail.equalise=4`, *repeated* is "
            "`data.repeat.federated=0.05`.",
            table(["training", *NAMES, "minutes"], rows),
            "## Eight real images",
            "Learnt until they are known, and scored on themselves; they teach nothing that "
            "generalises.",
            table(
                ["images", *NAMES, "minutes"],
                [
                    ["LVIS v0.5, the 8 learnt", *("–" if v is None else f"{v:.3f}" for v in values)]
                    + [f"{real['minutes']}"]
                ],
            ),
            f"```\nunified train {' '.join(SHAPES)}\nunified train {' '.join(shown)}\n```",
        ],
    )


if __name__ == "__main__":
    main()
