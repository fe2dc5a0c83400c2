"""Captions: on generated images, beside detection, then rewarded; and on coco-mini.

python tests/bench/captions.py
"""

from __future__ import annotations

from typing import Any

from real import LEARNT
from results import REAL, ROOT, table, train, write

NAMES = ("BLEU-1", "BLEU-4", "ROUGE-L", "CIDEr-D", "METEOR")
SMALL = ["task.caption.width=128", "task.caption.layers=2", "task.caption.dropout=0"]
"""Of the trunk's size."""
SHAPES = [
    "experiment=icap",
    *SMALL,
    "task.caption.levels=[p3,p4,p5]",
    "task.caption.max_captions=40",
    "task.caption.view=strong",
    "augment=none",
    "data.batch_size=8",
    "optim.lr=0.003",
    "trainer.max_epochs=10",
    "trainer.check_val_every_n_epoch=10",
    "logger=none",
]
"""Whole images, so that one view is enough; p3 sees the ground's texture; all captions of a batch."""
REWARDED = [
    *SHAPES,
    "task.caption.scst=true",
    "trainer.max_epochs=3",
    "trainer.check_val_every_n_epoch=1",
    "optim.lr=0.0001",
    "optim.warmup_epochs=0.1",
]
REAL_IMAGES = [
    "experiment=icap",
    "task=[caption]",
    *LEARNT,
    "task.caption.dropout=0",
    "data.batch_size=4",
    "optim.lr=0.002",
    "trainer.max_epochs=120",
    "trainer.check_val_every_n_epoch=30",
]


def row(name: str, results: dict[str, Any]) -> list[str]:
    own = results["metrics"]["caption"]
    every = [results["metrics"].get("detection", {}).get("AP"), *map(own.get, NAMES)]
    values = ["–" if value is None else f"{value:.3f}" for value in every]
    return [name, *values, results["scored"]["caption"]["tokeniser"], f"{results['minutes']}"]


def main() -> None:
    runs = ROOT / "runs"
    alone = train(runs / "captions", *SHAPES)
    rewarded = train(runs / "captions-scst", *REWARDED, f"weights={runs / 'captions'}")
    real = train(runs / "captions-real", *REAL_IMAGES)
    shown = [o.replace(str(REAL), "$REAL") for o in REAL_IMAGES]
    header = ["images", "box AP", *NAMES, "tokeniser", "minutes"]
    write(
        "captions",
        "Captions",
        "python tests/bench/captions.py",
        [
            "`trunk=tiny`, captions with codes. Generated: scored on 200 held-out images with five "
            "captions each, behind the last epoch; self-critical training (SCST) starts from that, and "
            "these images choose the best of its three epochs. coco-mini: 80 real images until they are "
            "learnt, scored on those same images; they teach nothing that generalises.",
            table(header, [
                row("generated, held out", alone), row("the same, SCST", rewarded),
                row("coco-mini, the 80 learnt", real),
            ]),
            f"```\nunified train {' '.join(SHAPES)}\nunified train {' '.join(REWARDED)} "
            f"weights=RUN\nunified train {' '.join(shown)}\n```",
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
