"""What a loss needs of the other processes of a job."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """The rows of all processes, with gradient, and where this process's own begin.

    Every process must take part, forward and backward; one without rows gives (0, …).

    Args:
        rows: (N, …), N may differ between processes.

    Returns:
        (ΣN, …) in the order of the processes, and the position of row 0 in it.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return rows, 0
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    sizes = [int(c) for c in counts]
    start = sum(sizes[: dist.get_rank()])
    gathered: Tensor = _Gather.apply(rows, sizes, start)  # type: ignore[no-untyped-call]
    return gathered, start


def total_over(values: Tensor) -> Tensor:
    """The sum of what all processes have, without gradient; every process must take part."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


class _Gather(torch.autograd.Function):
    """Rows of all processes; the gradient of one's own is the sum of what all make of them."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int], start: int) -> Tensor:
        ctx.own = slice(start, start + len(rows))
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[ctx.own], None, None
