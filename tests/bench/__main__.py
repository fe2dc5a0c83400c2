"""All measurements, one after the other: `make bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

for name in (
    "annotations",
    "loading",
    "cost",
    "shapes",
    "real",
    "sweeps",
    "joint",
    "pair",
    "segmentation",
    "tracks",
    "kills",
    "added",
    "nine",
    "keypoints",
    "longtail",
    "captions",
    "views",
):
    print(f"--- {name}", flush=True)
    subprocess.run([sys.executable, str(HERE / f"{name}.py")], check=True)
