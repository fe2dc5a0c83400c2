"""Keypoints: learnt on generated figures, and on the people of coco-mini.

python tests/bench/keypoints.py
"""

from __future__ import annotations

from typing import Any

from real import LEARNT
from results import REAL, ROOT, table, train, write

NAMES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
FASTER = "optim=adamw_joint"
SHAPES = [
    "experiment=ipose",
    FASTER,
    "data.batch_size=6",
    "augment.strong.scale=0.1",
    "augment.strong.translate=0.05",
    "trainer.check_val_every_n_epoch=4",
    "logger=none",
]
FIRST = [*SHAPES, "data.image_size=128", "trainer.max_epochs=4"]
"""As large as they are: half as dear, and two in five figures are less than two of the finest cells
across."""
THEN = [*SHAPES, "data.image_size=192", "trainer.max_epochs=4"]
LOUD = [
    f"task.keypoints.loss_weights.{name}"
    for name in ("similarity=0.05", "distance=0.09", "visibility=0.01", "quality=0.025")
]
"""Eighty images are learnt whatever joints pull at the trunk."""
REAL_IMAGES = ["experiment=ipose", *LEARNT, "data.batch_size=4", *LOUD]


def row(name: str, results: dict[str, Any]) -> list[str]:
    own = results["metrics"]
    values = [own["detection"]["AP"], *(own["keypoints"][n] for n in NAMES)]
    return [name, *("–" if v is None else f"{v:.3f}" for v in values), f"{results['minutes']}"]


def main() -> None:
    first = train(ROOT / "runs" / "ipose-first", *FIRST)
    shapes = train(ROOT / "runs" / "ipose", *THEN, "weights=runs/ipose-first")
    real = train(ROOT / "runs" / "ipose-real", *REAL_IMAGES)
    faster = train(ROOT / "runs" / "ipose-real-fast", *REAL_IMAGES, FASTER)
    shown = [o.replace(str(REAL), "$REAL") for o in REAL_IMAGES]
    write(
        "keypoints",
        "Keypoints",
        "python tests/bench/keypoints.py",
        [
            "`trunk=tiny`, detection and keypoints with codes. Generated: four epochs of small "
            "images, then four of large ones from what these taught; each scored behind its last "
            "epoch on 200 held-out images whose figures are none of those learnt from. coco-mini: "
            "80 real images until they are learnt, scored on those same images; they teach nothing "
            "that generalises. Minutes depend on what else the machine does: it was left alone for the "
            "generated images, and was not for the real ones. The faster trunk serves the generated "
            "images, and spoils the real ones.",
            table(
                ["images", "box AP", *(f"OKS {n}" for n in NAMES), "minutes"],
                [
                    row("generated, held out, small", first),
                    row("… then large", shapes),
                    row("coco-mini, the 80 learnt", real),
                    row(f"the same, `{FASTER}`", faster),
                ],
            ),
            f"```\nunified train {' '.join(FIRST)} out=runs/ipose-first\n"
            f"unified train {' '.join(THEN)} weights=runs/ipose-first\n"
            f"unified train {' '.join(shown)}\n```",
        ],
    )


if __name__ == "__main__":
    main()
