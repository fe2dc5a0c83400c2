"""Learn the 80 real training images of coco-mini, then score the 40 others.

python tests/bench/real.py
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from results import REAL, ROOT, evaluate, table, train, write

RUN = ROOT / "runs" / "real"
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100")
LEARNT = [
    "data=coco",
    f"data.root={REAL / 'coco-mini'}",
    "data.val=train2017",
    "data.image_size=256",
    "data.batch_size=8",
    "data.workers=1",
    "augment=none",
    "trainer.max_epochs=100",
    "trainer.check_val_every_n_epoch=25",
    "optim.warmup_epochs=5",
    "optim.lr=0.004",
    "logger=none",
]
"""The 80 training images until they are learnt, scored on themselves."""
OVERRIDES = ["experiment=ijdc", "task=[detection,classification,instance]", *LEARNT]


def by_pycocotools(folder: Path, split: str, sort: str) -> dict[str, float]:
    """Score a run's own result file, `bbox` or `segm`, with pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(REAL / "coco-mini" / "annotations" / f"instances_{split}.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(folder / f"{sort}.json")), sort)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(NAMES, evaluation.stats.tolist(), strict=False))


def row(name: str, results: dict[str, Any], folder: Path, split: str) -> list[str]:
    own, gaps = results["metrics"], []
    for task, sort in (("detection", "bbox"), ("instance", "segm")):
        reference = by_pycocotools(folder, split, sort)
        gaps += [abs(own[task][n] - reference[n]) for n in NAMES]
    values = [*(own["detection"][n] for n in NAMES[:6]), own["instance"]["AP"]]
    values += [own["instance"]["AP50"], own["classification"]["mAP"]]
    return [name, *(f"{value:.4f}" for value in values), f"{max(gaps):.1e}"]


def main() -> None:
    learnt = train(RUN, *OVERRIDES)
    scored = RUN.with_name("real-eval")
    held_out = evaluate(RUN, scored, "data.val=val2017")
    rows = [
        row("80 training images", learnt, RUN, "train2017"),
        row("40 validation images", held_out, scored, "val2017"),
    ]
    shown = [o.replace(str(REAL), "$REAL") for o in OVERRIDES]
    write(
        "real",
        "Real input: coco-mini",
        "python tests/bench/real.py",
        [
            "`trunk=tiny` trained on 80 real images until they are learnt, scored on those same images "
            "and on 40 others. Eighty images teach nothing that generalises; the point is that the "
            "whole path works on real data.",
            "```\nunified train " + " ".join(shown) + "\n```",
            table(
                [
                    "images",
                    *NAMES[:6],
                    "mask AP",
                    "mask AP50",
                    "cls mAP",
                    "largest gap to pycocotools",
                ],
                rows,
            ),
            f"{learnt['epochs']} epochs in {learnt['minutes']} minutes.",
        ],
    )


if __name__ == "__main__":
    main()
