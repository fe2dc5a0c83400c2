"""Stuff segmentation beside detection on shapes: scores, time, codes.

python tests/bench/stuff.py [epochs]
"""

from __future__ import annotations

import sys

from results import ROOT, table, train, write


def main() -> None:
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    rows = []
    for name, tasks in (("stuff alone", "[stuff]"), ("with detection", "[detection,stuff]")):
        results = train(
            ROOT / "runs" / "stuff" / f"{name.replace(' ', '-')}-{epochs}",
            f"task={tasks}",
            f"trainer.max_epochs={epochs}",
            "logger=none",
        )
        found = results["metrics"]["stuff"]
        detection = results["metrics"].get("detection", {}).get("AP")
        rows.append(
            [name, *(f"{100 * found[k]:.1f}" for k in ("mIoU", "fwIoU", "mAcc", "pAcc"))]
            + ["–" if detection is None else f"{100 * detection:.1f}", results["minutes"]]
        )
    write(
        "stuff",
        "Stuff segmentation on shapes",
        " ".join(["python tests/bench/stuff.py", *sys.argv[1:]]),
        [
            f"`trunk=tiny`, {epochs} epochs with codes, one seed, in percent on the 200 held-out images.",
            table(["run", "mIoU", "fwIoU", "mAcc", "pAcc", "box AP", "minutes"], rows),
        ],
    )


if __name__ == "__main__":
    main()
