"""The main job, `make train`, as a page: its metrics, its time, its picture.

python tests/bench/shapes.py [run folder of make train]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from PIL import Image
from results import ROOT, table, train, write

GOALS = {("detection", "AP"): 0.45, ("classification", "mAP"): 0.85, ("embedding", "Recall@1"): 0.7}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs" / "shapes"
    if len(sys.argv) > 1:
        results = json.loads((folder / "results.json").read_text())
    else:
        results = train(folder, "experiment=ijde", "task=[detection,classification,embedding]")
    for picture in ("predictions.jpg", "train_batch.jpg"):
        target = ROOT / "docs" / "images" / picture
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(folder / picture).save(target, quality=78, optimize=True)
    rows = [
        [task, name, f"{value:.4f}", f"≥ {GOALS[task, name]}" if (task, name) in GOALS else ""]
        for task, values in results["metrics"].items()
        for name, value in values.items()
        if value >= 0
    ]
    write(
        "shapes",
        "The main job on generated data",
        "make train",
        [
            f"{results['parameters']:,} parameters, {results['code_parameters']:,} of them codes; "
            f"{results['epochs']} epochs in {results['minutes']} minutes; 200 held-out images whose "
            "individuals are not among those of the training images.",
            table(["task", "metric", "value", "goal"], rows),
            "Every object is small in COCO's sense at 128 px, except where M is given.",
        ],
    )


if __name__ == "__main__":
    main()
