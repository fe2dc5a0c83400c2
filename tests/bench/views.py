"""Captions beside detection, in one view or two.

python tests/bench/views.py
"""

from __future__ import annotations

import numpy as np
from captions import SMALL
from results import ROOT, spread, table, train, write

VIEWS = [
    "experiment=icap",
    *SMALL,
    "task.caption.max_captions=96",
    "trainer.max_epochs=10",
    "trainer.check_val_every_n_epoch=10",
    "trainer.precision=32-true",
    "logger=none",
]
ARMS = {
    "two views": ["data.batch_size=64"],
    "two views, one of a quarter": ["data.batch_size=40", "augment.weak.share=0.25"],
    "one view": ["data.batch_size=32", "task.caption.view=strong"],
}
"""32 images a step in each."""
SEEDS = (0, 1, 2)


def main() -> None:
    rows = []
    for number, (arm, overrides) in enumerate(ARMS.items()):
        own = [
            train(
                ROOT / "runs" / f"captions-view{number}-{seed}", *VIEWS, *overrides, f"seed={seed}"
            )
            for seed in SEEDS
        ]
        minutes = np.mean([run["minutes"] for run in own])
        rows.append(
            [arm, *spread(own, "detection", "AP"), *spread(own, "caption", "CIDEr-D", "BLEU-4"),
             f"{minutes:.1f}"]
        )  # fmt: skip
    write(
        "views",
        "Captions and detection in one view or two",
        "python tests/bench/views.py",
        [
            "`trunk=tiny`, generated images, equal numbers of steps, of 32 images each: captions "
            "learn from a view of their own, whole and not mirrored; from that of a quarter of a "
            "batch's images; or from detection's, which is then not mirrored either. Scored once, "
            f"behind the last epoch, seeds {', '.join(map(str, SEEDS))}: mean ± standard deviation.",
            table(["views", "box AP", "CIDEr-D", "BLEU-4", "minutes"], rows),
            f"All begin with `unified train {' '.join(VIEWS)}`; "
            + "; ".join(f"*{a}*: `{' '.join(o) or '–'}`" for a, o in ARMS.items()),
        ],
    )


if __name__ == "__main__":
    main()
