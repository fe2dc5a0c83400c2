"""Training steps of one process of several, for `test_processes.py`; run with the interpreter.

python steps.py RANK WORLD PORT OUT OVERRIDES…
"""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from hydra import compose, initialize_config_module
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from unified.batch import Batch
from unified.build import build
from unified.data.datamodule import DataModule
from unified.data.sources import Folders
from unified.module import UnifiedModule
from unified.schema import validate
from unified.task import DataSpec

IMAGES, STEPS = 8, 3


class Step(nn.Module):
    """What is wrapped for distributed training: the module's training step."""

    def __init__(self, module: UnifiedModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Batch) -> torch.Tensor:
        loss: torch.Tensor = self.module.training_step(batch, 0)
        return loss


def make_batch(data: DataModule, step: int, rank: int, world: int) -> Batch:
    """This process's share of eight images, some of which know nothing of one kind or of all."""
    dataset = data.train_dataset()
    groups = [dataset[(step, index)] for index in range(IMAGES)]
    for index in (0, 5):
        for row in groups[index]:
            row.labels = {k: v for k, v in row.labels.items() if k == "objects" and index}
    share = IMAGES // world
    return dataset.collate(groups[rank * share : (rank + 1) * share])


def main(rank: int, world: int, port: str, out: str, *overrides: str) -> None:
    torch.set_num_threads(1)
    if world > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        dist.init_process_group("gloo", rank=rank, world_size=world)
    with initialize_config_module("conf", version_base="1.3"):
        config = validate(compose("config", list(overrides)))
    sources = Folders(config.data, config.data.train)
    spec = DataSpec(config.data.image_size, sources.open)
    model = build(config, spec)
    tasks = model.named_tasks()
    data = DataModule(config.data, config.augment, tasks, spec.spaces, sources, config.seed)
    module = UnifiedModule(config, model, spec, data.val_split)
    step: nn.Module = Step(module).eval()  # batch norm would mix what a process sees
    if world > 1:
        step = DistributedDataParallel(step)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4)
    logged: list[dict[str, float]] = []
    gradients = []
    for number in range(STEPS):
        optimizer.zero_grad()
        module.means.reset()
        step(make_batch(data, number, rank, world)).backward()
        logged.append(module.train_row())
        gradients.append({n: p.grad.clone() for n, p in module.named_parameters()})
        optimizer.step()
    buffers = {n: b.clone() for n, b in module.named_buffers()}
    torch.save({"logged": logged, "gradients": gradients, "buffers": buffers}, f"{out}.{rank}")
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
