"""What each pixel task adds to detection on YOLOR-CSP: size, operations, time, memory.

python tests/bench/pixel_tasks.py
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable

import torch
from cost import ANCHORS, forward, interleaved, make_batch
from hydra import compose, initialize_config_module
from results import table, write

from unified.build import Built, build
from unified.cost import measure_cost
from unified.module import task_total
from unified.ops.losses import zero_of
from unified.schema import validate
from unified.specs import Batch, DataSpec, LabelSpace

SIZE, LARGE, BATCH = 320, 640, 4
CASES = {
    "detection": "detection",
    "+ instance": "detection,instance",
    "+ stuff": "detection,stuff",
    "+ all three": "detection,instance,stuff,panoptic",
}
LABELS = {
    kind: LabelSpace(tuple(range(count)), tuple(map(str, range(count))), things)
    for kind, count, things in (
        ("instances", 80, (True,) * 80),
        ("stuff", 92, (False,) * 92),
        ("panoptic", 133, (True,) * 80 + (False,) * 53),
    )
}
"""As many categories as COCO has."""


def make(tasks: str, size: int) -> Built:
    with initialize_config_module("conf", version_base="1.3"):
        overrides = [
            f"task=[{tasks}]",
            "trunk=yolor_csp",
            "implicit=vector",
            f"data.image_size={size}",
        ]
        config = validate(compose("config", [*overrides, f"task.detection.anchors={ANCHORS}"]))
    return build(config, DataSpec(LABELS, size))


def labelled_batch(size: int) -> Batch:
    """Boxes of the cost bench with masks that fill them, and maps of random classes."""
    batch = make_batch(size, 7 * BATCH)
    side = size // 4  # of the class maps; masks are twice as fine
    cell = torch.arange(size // 2) * 2 + 1
    boxes = batch.targets.boxes
    across = (cell >= boxes[:, :1]) & (cell < boxes[:, 2:3])
    down = (cell >= boxes[:, 1:2]) & (cell < boxes[:, 3:])
    batch.targets.masks = (down[:, :, None] & across[:, None]).to(torch.uint8) * 255
    batch.maps = {
        kind: torch.randint(len(LABELS[kind]), (BATCH, side, side), dtype=torch.uint8)
        for kind in ("stuff", "panoptic")
    }
    return batch


def training_step(built: Built, batch: Batch) -> Callable[[], None]:
    built.model.train()
    optimizer = torch.optim.SGD(built.model.parameters(), lr=1e-5, momentum=0.9, nesterov=True)

    def work() -> None:
        features = built.model.extract(batch.images)
        outputs, upstream = built.model.discriminate(features), {}
        totals = [
            task_total(task.loss(outputs[name], batch, upstream), task.loss_weights)
            for name, task in built.tasks.items()
        ]
        optimizer.zero_grad()
        (torch.stack(totals).sum() + zero_of(features)).backward()
        optimizer.step()

    return work


def memory(tasks: str) -> None:
    """Print the peak of this process after three steps at the large size."""
    torch.set_num_threads(2)
    step = training_step(make(tasks, LARGE), labelled_batch(LARGE))
    for _ in range(3):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def measured_memory(tasks: str) -> float:
    """GiB, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, tasks], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    if len(sys.argv) > 1:
        memory(sys.argv[1])
        return
    peaks = {name: measured_memory(tasks) for name, tasks in CASES.items()}
    torch.set_num_threads(2)
    built = {name: make(tasks, SIZE) for name, tasks in CASES.items()}
    image, batch = torch.rand(1, 3, SIZE, SIZE), labelled_batch(SIZE)
    costs = {n: measure_cost(b.model, SIZE)["parts"].values() for n, b in built.items()}
    forwards = interleaved({n: forward(b.model, image) for n, b in built.items()}, rounds=15)
    steps = interleaved({n: training_step(b, batch) for n, b in built.items()}, rounds=5)
    base = "detection"
    rows = []
    for name in CASES:
        parameters = sum(p["parameters"] for p in costs[name])
        flops = sum(p["flops"] for p in costs[name]) / 1e9
        rows.append(
            [
                name, f"{parameters:,}", f"{flops:.2f}", f"{1000 * forwards[name]:.0f}",
                f"{forwards[name] / forwards[base]:.3f}×", f"{1000 * steps[name]:.0f}",
                f"{steps[name] / steps[base]:.3f}×", f"{peaks[name]:.2f}",
                f"{peaks[name] / peaks[base]:.3f}×",
            ]
        )  # fmt: skip
    write(
        "pixel_tasks",
        "What the pixel tasks add to detection",
        "python tests/bench/pixel_tasks.py",
        [
            f"YOLOR-CSP with codes, COCO's numbers of categories, float32, two threads. Forward: one "
            f"image of {SIZE} px; training step: {BATCH} images of {SIZE} px, seven objects each; "
            "medians of interleaved runs. Memory: peak of the process over three training steps of "
            f"{BATCH} images of {LARGE} px, optimiser included.",
            table(
                ["tasks", "parameters", "GFLOPs", "forward ms", "", "step ms", "", "peak GiB", ""],
                rows,
            ),
        ],
    )


if __name__ == "__main__":
    main()
