"""Detection with instance, stuff and panoptic segmentation: generated and real images.

python tests/bench/segmentation.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from results import REAL, ROOT, evaluate, table, train, write

from unified.run.history import read_history

RUNS = ROOT / "runs" / "segmentation"
SHAPES = [
    "experiment=iseg",
    "task.instance.width=32",
    "task.stuff.width=32",
    "task.panoptic.width=32",
    "trainer.max_epochs=15",
    "trainer.check_val_every_n_epoch=5",
    "logger=none",
]
COCO128 = [
    "experiment=iseg",
    "data=coco",
    f"data.root={REAL / 'coco128'}",
    "data.derive=true",
    "data.val=train2017",
    "data.image_size=256",
    "data.batch_size=8",
    "data.workers=1",
    "augment=none",
    "trainer.max_epochs=120",
    "trainer.check_val_every_n_epoch=40",
    "optim.warmup_epochs=5",
    "logger=none",
]
COLUMNS = (
    ("box AP", "detection", "AP"),
    ("box AP50", "detection", "AP50"),
    ("mask AP", "instance", "AP"),
    ("mask AP50", "instance", "AP50"),
    ("mIoU", "stuff", "mIoU"),
    ("PQ", "panoptic", "PQ"),
    ("PQ things", "panoptic", "PQ_th"),
    ("PQ stuff", "panoptic", "PQ_st"),
)


def row(name: str, results: dict[str, Any], length: dict[str, Any]) -> list[str]:
    found = [results["metrics"].get(task, {}).get(metric) for _, task, metric in COLUMNS]
    shown = ["–" if value is None else f"{100 * value:.1f}" for value in found]
    return [name, *shown, str(length.get("epochs", "–")), str(length.get("minutes", "–"))]


def command(overrides: list[str]) -> str:
    shown = " ".join(overrides).replace(str(REAL), "$REAL")
    return f"```\nunified train {shown}\n```"


def rise(run: Path) -> str:
    """Whether a run had learnt all that it could."""
    rows = [row for row in read_history(run / "metrics.csv") if "val/detection/AP" in row]
    steps = ", ".join(f"{100 * r['val/detection/AP']:.1f} after {r['epoch'] + 1:.0f}" for r in rows)
    small, medium, large = (100 * rows[-1][f"val/detection/AP{size}"] for size in "sml")
    return (
        f"Box AP on the learnt images of coco128 by epochs: {steps}. Large objects are learnt "
        f"({large:.1f}), medium ones mostly ({medium:.1f}), small ones hardly ({small:.1f}): at "
        "256 px they are smaller than 13 pixels."
    )


def main() -> None:
    shapes = train(RUNS / "shapes", *SHAPES)
    learnt = train(RUNS / "coco128", *COCO128)
    held_out = evaluate(RUNS / "coco128", RUNS / "coco128-val", "data.val=val2017")
    rows = [
        row("shapes, 200 held-out images", shapes, shapes),
        row("coco128, the 100 learnt images", learnt, learnt),
        row("coco128, 40 other images", held_out, {}),
    ]
    with Image.open(RUNS / "shapes" / "predictions.jpg") as picture:
        upper = picture.crop((0, 0, picture.width, picture.height // 2))
        upper.save(ROOT / "docs" / "images" / "segmentation.jpg", quality=75, optimize=True)
    write(
        "segmentation",
        "Segmentation on generated and real images",
        "python tests/bench/segmentation.py",
        [
            "`trunk=tiny` with codes, one seed, in percent. Scores on images that were learnt say that "
            "the path from real labels to official metrics is whole, not that anything generalises: "
            "the other images show what a hundred images teach. coco128 has panoptic labels only; "
            "objects, masks and stuff are derived from them, for the truth as for the targets.",
            table(["data", *(c[0] for c in COLUMNS), "epochs", "minutes"], rows),
            rise(RUNS / "coco128"),
            *(command(overrides) for overrides in (SHAPES, COCO128)),
        ],
    )


if __name__ == "__main__":
    main()
