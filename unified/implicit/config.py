"""Which codes a run has: the typed part `implicit` of the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from unified.errors import ConfigError

OPERATORS = {"align": ("none", "add", "mul", "concat"), "refine": ("none", "add", "mul")}


@dataclass
class ImplicitConfig:
    """Which codes exist and how they act.

    Attributes:
        decoder: `_target_` and options of a `Decoder`; null is the arm without codes.
        align: operator before a head's last layer: add, mul, concat or none.
        refine: operator on a head's outputs: mul, add or none.
        sites: glob patterns of the slots to fill, as `align.p3` or `refine.*`.
        per_task: task name → overrides of align, refine and sites.
    """

    decoder: dict[str, Any] | None = None
    align: str = "add"
    refine: str = "mul"
    sites: list[str] = field(default_factory=lambda: ["*"])
    per_task: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check("implicit", self.align, self.refine)
        for task, overrides in self.per_task.items():
            unknown = set(overrides) - {"align", "refine", "sites"}
            if unknown:
                raise ConfigError(
                    f"implicit.per_task.{task}: unknown key {sorted(unknown)[0]!r}",
                    "use align, refine or sites",
                )
            align, refine = (overrides.get(k, getattr(self, k)) for k in ("align", "refine"))
            _check(f"implicit.per_task.{task}", align, refine)

    def of_task(self, task: str) -> ImplicitConfig:
        """The configuration as one task sees it."""
        overrides = dict(self.per_task.get(task, {}))
        if "sites" in overrides:
            overrides["sites"] = list(overrides["sites"])
        return replace(self, per_task={}, **overrides)


def _check(prefix: str, align: str, refine: str) -> None:
    if refine == "concat":
        raise ConfigError(
            f"{prefix}.refine=concat is not defined: refinement acts on a head's output tensor, "
            "and concatenation would change its width",
            f"use {prefix}.refine=mul or add; concat is available as {prefix}.align=concat",
        )
    for place, value in (("align", align), ("refine", refine)):
        _check_choice(f"{prefix}.{place}", value, OPERATORS[place])


def _check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{key}={value} is unknown", f"use one of: {', '.join(choices)}")
