"""Embeddings of people on video frames: who is who, from one frame to the next.

python tests/bench/tracks.py
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from results import REAL, ROOT, evaluate, table, train, write

from unified.run.history import read_history

RUNS = ROOT / "runs" / "tracks"
OVERRIDES = [
    "experiment=ijde",
    "data=coco",
    f"data.root={REAL / 'mot17-mini'}",
    "data.train=train",
    "data.val=val",
    "data.image_size=640",
    "data.batch_size=4",
    "data.workers=1",
    "trainer.max_epochs=120",
    "trainer.check_val_every_n_epoch=40",
    "optim.warmup_epochs=10",
    "logger=none",
]
BEFORE = [*OVERRIDES, "trainer.max_epochs=1", "trainer.check_val_every_n_epoch=1", "optim.lr=1e-12"]
PEOPLE, MEMORY = 42, 2048
COLUMNS = (
    ("Recall@1", "embedding", "Recall@1"),
    ("mAP@R", "embedding", "mAP@R"),
    ("box AP", "detection", "AP"),
    ("box AP50", "detection", "AP50"),
)


def row(name: str, results: dict[str, Any]) -> list[str]:
    found = [results["metrics"][task][metric] for _, task, metric in COLUMNS]
    return [name, *(f"{100 * value:.1f}" for value in found)]


def contrast(run: Path) -> str:
    """How the loss went, beside the least that it can be."""
    losses = [float(r["train/embedding/contrast"]) for r in read_history(run / "metrics.csv")]
    return (
        f"The contrastive loss fell from {max(losses):.2f}, when its memory had filled, to "
        f"{losses[-1]:.2f}. It cannot fall below the logarithm of the number of a vector's "
        f"partners: {MEMORY} vectors of {PEOPLE} people give {math.log(MEMORY / PEOPLE):.2f}."
    )


def main() -> None:
    fresh = train(RUNS / "before", *BEFORE)
    trained = train(RUNS / "trained", *OVERRIDES)
    learnt = evaluate(RUNS / "trained", RUNS / "trained-on-train", "data.val=train")
    shown = " ".join(OVERRIDES).replace(str(REAL), "$REAL")
    write(
        "tracks",
        "Embeddings across video frames: mot17-mini",
        "python tests/bench/tracks.py",
        [
            "People of four frames each of two videos, whose boxes have a `track_id`: 42 of MOT17-04 "
            "to learn from, 22 of MOT17-02 to be found again. A person is in every frame once, so "
            "that every match lies in another frame. `trunk=tiny`, one seed, in percent.",
            table(
                ["network and frames", *(c[0] for c in COLUMNS)],
                [
                    row("before training, MOT17-02", fresh),
                    row("trained on MOT17-04, MOT17-02", trained),
                    row("trained on MOT17-04, MOT17-04", learnt),
                ],
            ),
            contrast(RUNS / "trained"),
            "The frames are 0.13 s apart, and a vector is read at a place in the image, around "
            "which little changes: matching is easy even for a network that has learnt nothing. "
            "The table says that the path from `track_id` to Recall@1 is whole on real video, and the "
            "loss that the embedding learns; how well people are told apart, four frames cannot say.",
            f"```\nunified train {shown}\n```",
            f"{trained['epochs']} epochs in {trained['minutes']} minutes.",
        ],
    )


if __name__ == "__main__":
    main()
