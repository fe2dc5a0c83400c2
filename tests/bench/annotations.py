"""Peak memory and load time of annotations for 118,000 images.

python tests/bench/annotations.py
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from results import table, write

IMAGES, PER_IMAGE, CORNERS = 118_000, 7.3, 22
READERS = {
    "unified Objects": "s = Folders(DataConfig({root!r}, 'train', 'val', 640, 1, 0, sources=READERS), 'train').open('objects')",
    "json.load alone": "import json; s = json.load(open({root!r} + '/annotations/instances_train.json'))",
    "pycocotools COCO": "from pycocotools.coco import COCO; s = COCO({root!r} + '/annotations/instances_train.json')",
}


def write_synthetic(root: Path) -> Path:
    """A json of the size of instances_train2017: 860,000 polygons of about 22 corners."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    file = root / "annotations" / "instances_train.json"
    with file.open("w") as out:
        out.write('{"info": {}, "images": [')
        for i in range(IMAGES):
            row = {"id": i + 1, "file_name": f"{i:012d}.jpg", "height": 480, "width": 640}
            out.write((", " if i else "") + json.dumps(row))
        out.write('], "categories": ')
        out.write(json.dumps([{"id": c, "name": f"category {c}"} for c in range(1, 81)]))
        out.write(', "annotations": [')
        identifier = 0
        for i, count in enumerate(rng.poisson(PER_IMAGE, IMAGES)):
            for _ in range(count):
                identifier += 1
                ring = rng.uniform(0, 480, 2 * int(rng.integers(8, 2 * CORNERS - 8))).round(2)
                x, y, w, h = rng.uniform(1, 240, 4).round(2).tolist()
                row = {
                    "id": identifier, "image_id": i + 1, "category_id": int(rng.integers(1, 81)),
                    "bbox": [x, y, w, h], "area": round(w * h, 2), "iscrowd": 0,
                    "segmentation": [ring.tolist()],
                }  # fmt: skip
                out.write((", " if identifier > 1 else "") + json.dumps(row))
        out.write("]}")
    return file


def measure(code: str) -> tuple[float, float, float]:
    """(seconds, peak MiB, MiB kept) above an interpreter with the same imports."""
    program = f"""
import resource, time, sys, gc
sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r})
import json, numpy, pycocotools.coco, unified.data.coco.objects
from unified.data.config import DataConfig
from unified.data.sources import Folders
READERS = {{"objects": "unified.data.coco.objects.Objects"}}
def now():
    return int(open('/proc/self/statm').read().split()[1]) * 4096 / 2**20
base = now(); t = time.time()
{code}
seconds = time.time() - t
gc.collect()
print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - base, now() - base)
"""
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    seconds, peak, kept = out.stdout.strip().splitlines()[-1].split()
    return float(seconds), float(peak), float(kept)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        file = write_synthetic(Path(folder))
        size = file.stat().st_size / 2**20
        print(f"wrote {size:.0f} MiB in {time.time() - began:.0f} s", file=sys.stderr)
        rows = []
        for name, code in READERS.items():
            seconds, peak, kept = measure(code.format(root=folder))
            rows.append([name, f"{seconds:.1f}", f"{peak:,.0f}", f"{kept:,.0f}"])
            print(rows[-1], file=sys.stderr)
    write(
        "annotations",
        "Annotations of 118,000 images",
        "python tests/bench/annotations.py",
        [
            f"A synthetic `instances_train.json` with {IMAGES:,} images and about "
            f"{IMAGES * PER_IMAGE:,.0f} polygons of {CORNERS} corners on average, {size:,.0f} MiB.",
            table(["reader", "seconds", "peak MiB", "kept MiB"], rows),
            "What is kept are numpy arrays, which worker processes share page by page.",
        ],
    )


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
