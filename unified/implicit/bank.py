"""Every task's codes: which slots are filled, and with what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatch

import torch
from torch import Tensor, nn

from unified.errors import ConfigError
from unified.implicit.config import PLACES, ImplicitConfig
from unified.implicit.decoder import Decoder
from unified.implicit.operators import OPERATORS, Operator
from unified.slots import slots_of

MakeDecoders = Callable[[Sequence[int], Sequence[float]], Sequence[Decoder]]
"""Widths and neutral values of a task's slots → their decoders."""


class Code(nn.Module):
    """What fills a slot: a decoder and the operator by which its representation acts."""

    def __init__(self, decoder: Decoder, operator: Operator) -> None:
        super().__init__()
        self.decoder, self.operator = decoder, operator

    @property
    def constant(self) -> bool:
        """Whether the code may be folded into weights."""
        return self.decoder.constant

    def forward(self, feature: Tensor) -> Tensor:
        out: Tensor = self.operator(feature, self.decoder(feature))
        return out

    def affine(self) -> tuple[Tensor, Tensor]:
        """A constant code as x → scale·x + shift."""
        return self.operator.affine(self.decoder(None))

    def flops(self, feature: Tensor) -> int:
        """Multiplications and additions for one feature."""
        return self.decoder.flops(feature) + self.operator.flops(feature)


def fill_slots(config: ImplicitConfig, heads: Mapping[str, nn.Module], make: MakeDecoders) -> None:
    """Give every chosen slot of every task its code.

    Args:
        config: which slots, and by which operators.
        heads: task name → head.
        make: builds one task's decoders.

    Raises:
        ConfigError: a pattern, or a task in `per_task`, matches nothing.
    """
    _check_patterns(config, heads)
    for task, head in heads.items():
        own = config.of_task(task)
        chosen = [
            (slot, operator)
            for name, slot in slots_of(head)
            for operator in [_operator(own, name)]
            if operator != "none" and any(fnmatch(name, pattern) for pattern in own.sites)
        ]
        if not chosen:
            continue
        widths = [slot.width * OPERATORS[operator].parts for slot, operator in chosen]
        decoders = make(widths, [OPERATORS[operator].neutral for _, operator in chosen])
        for (slot, operator), decoder in zip(chosen, decoders, strict=True):
            slot.code = Code(decoder, OPERATORS[operator](slot.width))


def codes_of(network: nn.Module) -> Iterator[tuple[str, Code]]:
    """Name and code of every filled slot."""
    for name, slot in slots_of(network):
        if isinstance(slot.code, Code):
            yield name, slot.code


def neutralise(network: nn.Module) -> None:
    """Set every code to its operator's neutral element: the network acts as without codes."""
    for _, code in codes_of(network):
        code.decoder.neutralise()


def penalty(network: nn.Module) -> Tensor | None:
    """What all codes together add to the loss, if anything."""
    found = [
        value for _, code in codes_of(network) if (value := code.decoder.penalty()) is not None
    ]
    return torch.stack(found).sum() if found else None


def _operator(config: ImplicitConfig, slot: str) -> str:
    place = slot.split(".")[0]
    if place not in PLACES:
        raise TypeError(f"slot {slot}: a head keeps its slots in `align` and `refine`")
    operator: str = getattr(config, place)
    return operator


def _check_patterns(config: ImplicitConfig, heads: Mapping[str, nn.Module]) -> None:
    for task in config.per_task:
        if task not in heads:
            raise ConfigError(
                f"implicit.per_task.{task}: task {task!r} takes no part in this run",
                f"add it to task=[…], or name one of: {', '.join(heads)}",
            )
    available = {task: [name for name, _ in slots_of(head)] for task, head in heads.items()}
    everything = [name for names in available.values() for name in names]
    for key, patterns, names in [
        ("implicit.sites", config.sites, everything),
        *(
            (f"implicit.per_task.{task}.sites", config.of_task(task).sites, available[task])
            for task, overrides in config.per_task.items()
            if overrides.sites is not None
        ),
    ]:
        for pattern in patterns:
            if not any(fnmatch(name, pattern) for name in names):
                raise ConfigError(
                    f"{key}: {pattern!r} matches no slot",
                    f"this run has: {', '.join(sorted(set(names)))}",
                )
