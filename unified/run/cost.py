"""Parameters and FLOPs of a network by trunk, heads and codes."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from unified.implicit.bank import Code, codes_of
from unified.model import UnifiedModel

try:
    import resource
except ImportError:  # no such system
    resource = None  # type: ignore[assignment]


def measure_cost(model: UnifiedModel, size: int) -> dict[str, Any]:
    """Cost of one image of `size`×`size` pixels.

    Multiplications and additions of convolutions and matrix products count one each, as
    torch's counter has it; of the elementwise work only that of the codes is counted.

    Returns:
        Part (`trunk`, `head.<task>`, `codes.<task>`) → `parameters` and `flops`.
    """
    code_flops: dict[str, int] = {}
    hooks = [
        code.register_forward_hook(_count_into(code_flops, f"tasks.{task}.head.{slot}.code"))
        for task, own in model.named_tasks().items()
        for slot, code in codes_of(own.head)
    ]
    counts = _count(model, size)
    for hook in hooks:
        hook.remove()
    parts = {"trunk": _part(model.trunk, counts.get("UnifiedModel.trunk", 0))}
    codes = {}
    for task, of_task in model.named_tasks().items():
        head, prefix = of_task.head, f"tasks.{task}.head"
        own = {name: f for name, f in code_flops.items() if name.startswith(f"{prefix}.")}
        # What torch counted inside of codes is theirs, not the head's.
        inside = sum(counts.get(f"UnifiedModel.{name}", 0) for name in own)
        code = nn.ModuleList(code for _, code in codes_of(head))
        whole = _part(head, counts.get(f"UnifiedModel.{prefix}", 0) - inside)
        if own:
            codes[f"codes.{task}"] = _part(code, sum(own.values()))
            whole["parameters"] -= codes[f"codes.{task}"]["parameters"]
        parts[f"head.{task}"] = whole
    return {"parts": parts | codes, "counted_by_torch": counts["Global"]}


def peak_memory(device: torch.device) -> int | None:
    """Bytes that this process took at most of a GPU's memory, else of the main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    own = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    if own:  # ru_maxrss has in Linux what the process had that started this one
        return int(own[1]) * 1024
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _count(model: UnifiedModel, size: int) -> dict[str, int]:
    """Module name → FLOPs of one forward pass, by torch's counter."""
    counter = FlopCounterMode(display=False)
    device, training = next(model.parameters()).device, model.training
    learnt = [p for p in model.parameters() if p.requires_grad]
    model.eval().requires_grad_(False)  # the counter would follow gradients, even of views
    with torch.no_grad(), counter:
        model(torch.zeros(1, 3, size, size, device=device))
    model.train(training)
    for parameter in learnt:
        parameter.requires_grad_(True)
    return {name: int(sum(by.values())) for name, by in counter.get_flop_counts().items()}


def flops_of(cost: Mapping[str, Any]) -> int:
    """Of all parts together."""
    return sum(part["flops"] for part in cost["parts"].values())


def _count_into(totals: dict[str, int], name: str) -> Any:
    """A hook that adds a code's work under its name."""

    def hook(code: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(code, Code)
        totals[name] = totals.get(name, 0) + code.flops(inputs[0])

    return hook


def _part(module: nn.Module, flops: int) -> dict[str, int]:
    return {"parameters": sum(p.numel() for p in module.parameters()), "flops": flops}


def print_cost(cost: Mapping[str, Any], size: int) -> None:
    """A table with shares."""
    parts = cost["parts"]
    parameters = sum(p["parameters"] for p in parts.values())
    flops = flops_of(cost)
    table = Table(title=f"cost of one image at {size}×{size}")
    table.add_column("part")
    for heading in ("parameters", "share", "MFLOPs", "share"):
        table.add_column(heading, justify="right")
    for name, part in [*parts.items(), ("total", {"parameters": parameters, "flops": flops})]:
        table.add_row(
            name,
            f"{part['parameters']:,}",
            f"{100 * part['parameters'] / parameters:.3f} %",
            f"{part['flops'] / 1e6:,.2f}",
            f"{100 * part['flops'] / flops:.3f} %",
            end_section=name == list(parts)[-1],
        )
    Console().print(table)
