"""Parameters and FLOPs of a network by trunk, heads and codes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from unified.implicit import Concat, ImplicitBank, LinearDecoder, Site
from unified.model import UnifiedModel


def measure_cost(model: UnifiedModel, size: int) -> dict[str, Any]:
    """Cost of one image of `size`×`size` pixels.

    Multiplications and additions of convolutions and matrix products count one each, as
    torch's counter has it; of the elementwise work only that of the codes is counted.

    Returns:
        Part (`trunk`, `head.<task>`, `codes.<task>`) → `parameters` and `flops`.
    """
    bank: ImplicitBank | None = getattr(model, "bank", None)
    parts: dict[str, nn.Module] = {"trunk": model.trunk}
    parts |= {f"head.{name}": head for name, head in model.heads.items()}
    code_flops = dict.fromkeys(bank.tasks if bank else (), 0)
    hooks = []
    if bank is not None:
        parts |= {f"codes.{name}": codes for name, codes in bank.tasks.items()}
        for name, codes in bank.tasks.items():
            hooks += _count_sites(name, codes, code_flops)
    part_flops = dict.fromkeys(parts, 0)
    counter = FlopCounterMode(display=False)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    with torch.no_grad(), counter:
        model(torch.zeros(1, 3, size, size, device=device))
    model.train(training)
    for hook in hooks:
        hook.remove()
    counts = counter.get_flop_counts()
    total = sum(counts["Global"].values())
    part_flops["trunk"] = sum(counts.get("UnifiedModel.trunk", {}).values())
    for name in model.heads:
        # Heads are entered by stem and predict, not by forward: add up their submodules.
        prefix = f"UnifiedModel.heads.{name}."
        found = [k for k in counts if k.startswith(prefix)]
        leaves = [k for k in found if not any(o.startswith(f"{k}.") for o in found)]
        part_flops[f"head.{name}"] = sum(sum(counts[k].values()) for k in leaves)
    for name, flops in code_flops.items():
        part_flops[f"codes.{name}"] = flops
    return {
        "parts": {
            name: {
                "parameters": sum(p.numel() for p in module.parameters()),
                "flops": int(part_flops[name]),
            }
            for name, module in parts.items()
        },
        "counted_by_torch": int(total),
    }


def _count_sites(task: str, codes: nn.Module, totals: dict[str, int]) -> list[Any]:
    """Hooks that add each site's elementwise (or projection) work to its task's total."""

    def hook(site: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        assert isinstance(site, Site)
        work = output.numel()
        if isinstance(site.operator, Concat):
            work *= 2 * output.shape[1]
        if isinstance(site.decoder, LinearDecoder):
            work += 2 * math.prod(site.decoder.weight.shape)
        totals[task] += work

    return [m.register_forward_hook(hook) for m in codes.modules() if isinstance(m, Site)]


def print_cost(cost: Mapping[str, Any], size: int) -> None:
    """A table with shares."""
    parts = cost["parts"]
    parameters = sum(p["parameters"] for p in parts.values())
    flops = sum(p["flops"] for p in parts.values())
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
