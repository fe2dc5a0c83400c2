"""One network of nine tasks beside nine networks of the same trunk: size, time, memory.

python tests/bench/nine.py
"""

from __future__ import annotations

import subprocess
import sys

import torch
from added import labelled_batch, make
from cost import forward, interleaved, training_step
from results import table, write

from unified.run.cost import peak_memory

ALONE = {
    "detection": "detection",
    "classification": "classification",
    "embedding": "detection,embedding",
    "instance": "detection,instance",
    "stuff": "stuff",
    "panoptic": "detection,instance,stuff,panoptic",
    "keypoints": "detection,keypoints",
    "longtail": "longtail",
    "caption": "caption",
}
"""Each task with what it requires."""
NINE = ",".join(ALONE)
TRUNKS = {"tiny": (128, 16), "yolor_csp": (320, 4)}
"""Trunk → pixels, images of a training step."""
IMAGES = 100_000


def memory(trunk: str, tasks: str) -> None:
    """Print by how much three steps raise the peak of this process, network and inputs included."""
    torch.set_num_threads(2)
    size, count = TRUNKS[trunk]
    libraries = peak_memory(torch.device("cpu"))
    step = training_step(make(tasks, size, f"trunk={trunk}"), labelled_batch(size, count))
    for _ in range(3):
        step()
    print((peak_memory(torch.device("cpu")) - libraries) / 2**30)


def measured_memory(trunk: str, tasks: str) -> float:
    """GiB, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, trunk, tasks], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def compared(trunk: str) -> list[list[str]]:
    """Rows of the table: nine in one, each alone, all of these together."""
    size, count = TRUNKS[trunk]
    networks = {"nine in one": NINE} | ALONE
    peaks = {name: measured_memory(trunk, tasks) for name, tasks in networks.items()}
    built = {name: make(tasks, size, f"trunk={trunk}") for name, tasks in networks.items()}
    image, batch = torch.rand(1, 3, size, size), labelled_batch(size, count)
    rounds = 40 if trunk == "tiny" else 14
    forwards = interleaved({n: forward(b, image) for n, b in built.items()}, rounds)
    steps = interleaved({n: training_step(b, batch) for n, b in built.items()}, rounds // 3)
    columns = {
        "parameters": {n: sum(p.numel() for p in b.parameters()) / 1e6 for n, b in built.items()},
        "forward": {name: 1000 * seconds for name, seconds in forwards.items()},
        "hours": {name: seconds / count * IMAGES / 3600 for name, seconds in steps.items()},
        "peak": peaks,
    }
    rows = []
    for name in networks:
        rows.append([name, *(f"{column[name]:.2f}" for column in columns.values())])
    sums = {key: sum(column[name] for name in ALONE) for key, column in columns.items()}
    rows.append(["the nine together", *(f"{value:.2f}" for value in sums.values())])
    for title, over in (
        ("nine in one ÷ detection", None),
        ("the nine together ÷ nine in one", sums),
    ):
        ratios = []
        for key, column in columns.items():
            one = column["nine in one"]
            ratios.append(one / column["detection"] if over is None else over[key] / one)
        rows.append([title, *(f"{ratio:.2f}×" for ratio in ratios)])
    return rows


def main() -> None:
    if len(sys.argv) > 1:
        memory(*sys.argv[1:])
        return
    torch.set_num_threads(2)
    header = [
        "network",
        "million parameters",
        "forward ms",
        f"hours for {IMAGES:,} images",
        "peak GiB",
    ]
    parts = [
        "With codes, COCO's and LVIS's numbers of categories, float32, two threads. Each task alone has "
        "with it what it requires: instance segmentation, keypoints and embedding detection, panoptic "
        "segmentation all of its parts. Forward: one image; training: forward pass, losses, backward "
        "pass and a step of SGD, all tasks on the same inputs; medians of interleaved runs, of which "
        "neighbours differ by several percent. Peak: what three training steps add to the process, "
        "optimiser included, libraries not. The decoder of captions is in training and not in the "
        "forward pass: it begins with decoding. Wanted are a forward pass of nine of at most 1.5 times "
        "detection's, and nine networks that cost at least five times as much as one.",
    ]
    for trunk, (size, count) in TRUNKS.items():
        parts += [f"## `{trunk}`, {size} px, {count} images a step", table(header, compared(trunk))]
    write(
        "nine", "One network of nine tasks, or nine networks", "python tests/bench/nine.py", parts
    )


if __name__ == "__main__":
    main()
