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

from unified.model import UnifiedModel
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
NARROW = ("classification", "embedding", "instance", "stuff", "panoptic", "keypoints")
THIN = {
    **{name: ["width=32"] for name in NARROW},
    "longtail": ["width=64"],
    "caption": ["width=128", "layers=2"],
}
"""Task → keys that make its head half as wide, and its decoder small."""
CASES = {
    "`tiny`": ("tiny", {}, 128, 16),
    "`tiny`, heads of half the width": ("tiny", THIN, 128, 16),
    "`yolor_csp`": ("yolor_csp", {}, 320, 4),
}
"""Name → trunk, keys of tasks, pixels, images of a training step."""
IMAGES = 100_000


def network(case: str, tasks: str) -> UnifiedModel:
    """Some tasks on a case's trunk."""
    trunk, keys, size, _ = CASES[case]
    own = [f"task.{name}.{key}" for name in tasks.split(",") for key in keys.get(name, ())]
    return make(tasks, size, f"trunk={trunk}", *own)


def memory(case: str, tasks: str) -> None:
    """Print by how much three steps raise the peak of this process, network and inputs included."""
    torch.set_num_threads(2)
    _, _, size, count = CASES[case]
    libraries = peak_memory(torch.device("cpu"))
    step = training_step(network(case, tasks), labelled_batch(size, count))
    for _ in range(3):
        step()
    print((peak_memory(torch.device("cpu")) - libraries) / 2**30)


def measured_memory(case: str, tasks: str) -> float:
    """GiB, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, case, tasks], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def compared(case: str) -> list[list[str]]:
    """Rows of the table: nine in one, each alone, all of these together."""
    trunk, _, size, count = CASES[case]
    networks = {"nine in one": NINE} | ALONE
    peaks = {name: measured_memory(case, tasks) for name, tasks in networks.items()}
    built = {name: network(case, tasks) for name, tasks in networks.items()}
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
        "neighbours differ by ten percent and more, and tables, made one after the other, by half: "
        "compare within one. Peak: what three training steps add to the process, "
        "optimiser included, libraries not. The decoder of captions is in training and not in the "
        "forward pass: it begins with decoding. Wanted are a forward pass of nine of at most 1.5 times "
        "detection's, and nine networks that cost at least five times as much as one. `yolor_csp` has "
        "both; on `tiny`, whose trunk is lighter than nine heads, five times is had of the forward pass "
        "alone.",
    ]
    for case, (*_, size, count) in CASES.items():
        parts += [f"## {case}, {size} px, {count} images a step", table(header, compared(case))]
    write(
        "nine", "One network of nine tasks, or nine networks", "python tests/bench/nine.py", parts
    )


if __name__ == "__main__":
    main()
