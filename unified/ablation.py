"""What a sweep compares: the typed part `ablation` of the configuration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from unified.bounds import Name, Whole
from unified.errors import ConfigError

ArmName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_]+(-[A-Za-z0-9_]+)*$")]
"""Of a folder, too."""
SplitName = Annotated[str, Meta(pattern=r"^\w[\w.-]*$")]
"""Of a folder and of files."""
OF_A_JOB = ("command", "ablation", "name", "seed", "out", "resume", "ckpt", "source")
"""Keys that the sweep sets itself."""


@dataclass
class AblationConfig:
    """Arms of an ablation, each trained once per seed.

    Attributes:
        name: of the sweep; part of its folder's name.
        baseline: the arm that others are compared with; null where `against` says it all.
        arms: arm → the overrides that make it.
        against: arm → the arms that it is compared with, in place of the baseline.
        tasks: arm → the tasks that it is compared by, on either side, where it has more. Every
            comparison more makes a difference harder to show.
        seeds: of every arm. Arms of one seed start from the same trunk and see the same images.
        common: overrides of all arms; what the command line says counts more.
        test: split that scores, where the best epoch is chosen on `data.val`; null scores there.
    """

    name: ArmName
    baseline: Name | None
    arms: Annotated[dict[ArmName, list[str]], Meta(min_length=1)]
    seeds: Annotated[list[Whole], Meta(min_length=1)]
    against: dict[str, list[str]] = field(default_factory=dict)
    tasks: dict[str, list[Name]] = field(default_factory=dict)
    common: list[str] = field(default_factory=list)
    test: SplitName | None = None

    def __post_init__(self) -> None:
        named = {"ablation.against": list(self.against), "ablation.tasks": list(self.tasks)}
        if self.baseline is not None:
            named["ablation.baseline"] = [self.baseline]
        named |= {f"ablation.against.{arm}": others for arm, others in self.against.items()}
        for key, arms in named.items():
            for arm in arms:
                if arm not in self.arms:
                    fix = f"use {_list(self.arms)}"
                    if key.count(".") == 2:
                        fix += f"; or say which, {key}=[…]"
                    raise ConfigError(f"{key}: there is no arm {arm}", fix)
        for arm, others in self.against.items():
            if arm in others:
                raise ConfigError(f"ablation.against.{arm} names the arm itself", "leave it out")
            if len(set(others)) < len(others):
                raise ConfigError(f"ablation.against.{arm} names an arm twice", "name each once")
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"ablation.seeds={self.seeds} names a seed twice", "name each once")
        for key, words in (
            ("common", self.common),
            *((f"arms.{a}", w) for a, w in self.arms.items()),
        ):
            for word in words:
                name = word.lstrip("+~").partition("=")[0]
                if name in OF_A_JOB or name.split("/")[0].split(".")[0] == "hydra":
                    raise ConfigError(
                        f"ablation.{key}: {word} is not an arm's to say", "leave it out"
                    )

    def comparisons(self) -> list[tuple[str, str]]:
        """Arms, each with one that it is compared with."""
        default = [] if self.baseline is None else [self.baseline]
        return [
            (arm, other)
            for arm in self.arms
            for other in self.against.get(arm, [] if arm == self.baseline else default)
        ]

    def counts(self, arm: str, task: str) -> bool:
        """Whether an arm is compared by a task that it has."""
        return task in self.tasks.get(arm, [task])


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
