"""YOLOR-CSP: seconds of a forward pass and a training step against GFLOPs, with and without codes.

python tests/bench/cost.py
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from results import table, write
from torch import nn

from tasks.detection import Detection
from unified.batch import Batch
from unified.implicit.bank import fill_slots
from unified.implicit.config import ImplicitConfig
from unified.implicit.vector import Vector
from unified.kinds.objects import ObjectTargets
from unified.model import UnifiedModel
from unified.run.cost import measure_cost
from unified.task import DataSpec, Upstream
from unified.trunks.csp import CSPTrunk
from unified.weighting.values import values_of

SIZE, BATCH = 320, 4
CSP = {"stem": 32, "widths": [64, 128, 256, 512, 1024], "depths": [1, 2, 8, 8, 4], "neck_depth": 2}
SPACE = {"ids": list(range(80)), "names": list(map(str, range(80))), "identified": False}
ANCHORS = [
    [[12, 16], [19, 36], [40, 28]], [[36, 75], [76, 55], [72, 146]], [[142, 110], [192, 243], [459, 401]]
]  # fmt: skip


def make(codes: bool) -> UnifiedModel:
    torch.manual_seed(0)
    trunk = CSPTrunk(**CSP)
    task = Detection(trunk.features, DataSpec(SIZE, saved={"objects": SPACE}), anchors=ANCHORS)
    if codes:
        fill_slots(ImplicitConfig(), {"detection": task.head}, Vector.of_task)
    return UnifiedModel(trunk, {"detection": task}).to(memory_format=torch.channels_last)


def make_batch(size: int = SIZE, objects: int = 28, count: int = BATCH) -> Batch:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, size * 0.6, (objects, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, size * 0.4, (objects, 2))], 1)
    images = torch.randint(0, 255, (count, 3, size, size), dtype=torch.uint8)
    targets = ObjectTargets(
        known=torch.ones(count, dtype=torch.bool),
        image=torch.arange(objects) * count // objects,
        boxes=torch.tensor(boxes, dtype=torch.float32),
        labels=torch.arange(objects) % 80,
        crowd=torch.zeros(objects, dtype=torch.bool),
        identities=torch.arange(objects) // 2,
        keys=torch.arange(objects),
    )
    return Batch(images.contiguous(memory_format=torch.channels_last), [], {"objects": targets})


def interleaved(cases: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each case.

    They take turns, forwards and backwards, so that a drifting machine and neighbours hit all.
    """
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds + 1):
        for name, work in list(cases.items())[:: -1 if turn % 2 else 1]:
            began = time.perf_counter()
            work()
            if turn:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def forward(model: nn.Module, image: torch.Tensor) -> Callable[[], object]:
    model.eval()

    def work() -> None:
        with torch.inference_mode():
            model(image)

    return work


def training_step(model: UnifiedModel, batch: Batch) -> Callable[[], object]:
    """Forward, every task's loss, backward, an SGD step."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9, nesterov=True)

    def work() -> None:
        outputs, upstream, losses = model(batch.images), Upstream(), {}
        for name, task in model.named_tasks().items():
            upstream.add(*task.shares(outputs[name]))
            losses[name], published = task.loss(outputs[name], batch, upstream)
            if published is not None:
                upstream.add(published)
        values = values_of(losses)[0]
        optimizer.zero_grad()
        torch.stack([v for own in values.values() for v in own.values()]).sum().backward()
        optimizer.step()

    return work


def main() -> None:
    torch.set_num_threads(2)
    plain, coded = make(False), make(True)
    cost = measure_cost(coded, SIZE)["parts"]
    gflops = sum(p["flops"] for p in cost.values()) / 1e9
    image = torch.rand(1, 3, SIZE, SIZE)
    seconds = interleaved(
        {
            "without codes": forward(plain, image),
            "with codes": forward(coded, image),
            "with codes, fused": forward(copy.deepcopy(coded).fuse(), image),
            "without codes, fused": forward(copy.deepcopy(plain).fuse(), image),
        },
        rounds=12,
    )
    batch = make_batch()
    steps = interleaved(
        {
            "without codes": training_step(plain, batch),
            "with codes": training_step(coded, batch),
        },
        rounds=5,
    )
    base, step_base = seconds["without codes"], steps["without codes"]
    parts = [[name, f"{p['parameters']:,}", f"{p['flops'] / 1e9:.4f}"] for name, p in cost.items()]
    rows = [
        [f"forward, batch 1, {n}", f"{s:.3f}", f"{gflops / s:.0f}", f"{s / base:.3f}×"]
        for n, s in seconds.items()
    ] + [
        [
            f"training step, batch {BATCH}, {n}",
            f"{s:.2f}",
            f"{3 * BATCH * gflops / s:.0f}",
            f"{s / step_base:.3f}×",
        ]
        for n, s in steps.items()
    ]
    codes = cost["codes.detection"]
    total = sum(p["parameters"] for p in cost.values())
    write(
        "cost",
        f"Cost of YOLOR-CSP at {SIZE} px",
        "python tests/bench/cost.py",
        [
            table(["part", "parameters", "GFLOPs"], parts),
            f"Codes are {100 * codes['parameters'] / total:.4f} % of the parameters and "
            f"{100 * codes['flops'] / gflops / 1e9:.4f} % of the operations (the paper: 0.005 % and "
            "0.002 % at 640 px).",
            "Float32, two threads, channels_last, medians of interleaved runs. A training step counts "
            "as three forward passes of operations.",
            table(["work", "seconds", "GFLOP/s", "ratio"], rows),
        ],
    )


if __name__ == "__main__":
    main()
