"""From configuration to a network."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.resources import files
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from unified.classes import checked_arguments, instantiate, subclass_at
from unified.errors import ConfigError
from unified.implicit.bank import MakeDecoders, fill_slots
from unified.implicit.config import ImplicitConfig
from unified.implicit.decoder import Decoder
from unified.model import UnifiedModel
from unified.schema import Config
from unified.task import DataSpec, Task, Upstream
from unified.trunks.features import Trunk
from unified.weighting.build import build_weighting

TaskTypes = Mapping[str, type[Task]]
GIVEN = {"trunk": ("image_size",), "task": ("features", "data", "upstream")}
"""Arguments that are no configuration."""


def check(config: Config, trained: Collection[str] = ()) -> None:
    """Refuse tasks and arguments that no data could make right, before any data is read.

    Args:
        config: of the run.
        trained: names of the tasks that the weights know which training starts from.

    Raises:
        ConfigError: as `build` does, or a task would learn from what it cannot do yet.
    """
    classes = {name: _class_of(name, part) for name, part in config.task.items()}
    order_tasks(classes)
    trunk = subclass_at("trunk._target_", nn.Module, config.trunk.get("_target_"))
    checked_arguments("trunk", trunk, _arguments(config.trunk), GIVEN["trunk"])
    for name, cls in classes.items():
        own = checked_arguments(f"task.{name}", cls, _arguments(config.task[name]), GIVEN["task"])
        _check_weights(name, cls, own.get("loss_weights") or {})
        if cls.relearns and own.get(cls.relearns) and name not in trained:
            raise ConfigError(
                f"task.{name}.{cls.relearns} learns from what a trained {name} task does, and "
                "there is none",
                "train without it first, then start from that run: weights=RUN",
            )
    if config.implicit.decoder is not None:
        _decoders(config.implicit)
    build_weighting(config.weighting, list(classes))


def build(config: Config, data: DataSpec) -> UnifiedModel:
    """Construct trunk, tasks with their heads, and codes.

    Trunk and every task draw their weights from a seed of their own, and the codes come last:
    a head is the same in every run that has it, whatever other tasks or codes take part.

    Raises:
        ConfigError: something that a task requires is missing, or arguments do not fit.
    """
    names = order_tasks({name: _class_of(name, part) for name, part in config.task.items()})
    with _seeded(config.seed, "trunk"):
        trunk: Trunk = instantiate("trunk", nn.Module, config.trunk, image_size=data.image_size)
    _check_size(data.image_size, trunk)
    tasks: dict[str, Task] = {}
    upstream = Upstream()
    for name in names:
        with _seeded(config.seed, f"task.{name}"):
            tasks[name] = instantiate(
                f"task.{name}", Task, config.task[name],
                features=trunk.features, data=data, upstream=upstream,
            )  # fmt: skip
        _check_weights(name, type(tasks[name]), tasks[name].loss_weights)
        upstream.add(*tasks[name].built())
    _check_rows(tasks)
    if config.implicit.decoder is not None:
        with _seeded(config.seed, "codes"):
            heads = {name: task.head for name, task in tasks.items()}
            fill_slots(config.implicit, heads, _decoders(config.implicit))
    model = UnifiedModel(trunk, tasks)  # type: ignore[arg-type]
    return model.to(memory_format=torch.channels_last)


def _check_size(size: int, trunk: Trunk) -> None:
    """Refuse inputs that the coarsest level does not divide."""
    stride = max(level.stride for level in trunk.features.values())
    if size % stride:
        raise ConfigError(
            f"data.image_size={size} is not a multiple of {stride}, the trunk's coarsest stride",
            f"use {max(1, round(size / stride)) * stride}",
        )


def order_tasks(classes: TaskTypes) -> list[str]:
    """Names so that each comes after those that publish what it requires, otherwise as given.

    Raises:
        ConfigError: nobody publishes what a task requires, more than one what it reads, or tasks
            require each other.
    """
    needs = {name: _publishers(name, classes) for name in classes}
    ordered: list[str] = []
    while len(ordered) < len(classes):
        ready = [n for n in classes if n not in ordered and needs[n] <= set(ordered)]
        if not ready:
            raise ConfigError(
                f"tasks require each other in a circle: {sorted(set(classes) - set(ordered))}",
                "change `requires` of one of them",
            )
        ordered.append(ready[0])
    return ordered


def _publishers(name: str, classes: TaskTypes) -> set[str]:
    """The selected tasks that publish what a task requires or uses."""
    found = set()
    for kind in (*classes[name].requires, *classes[name].uses):
        able = [other for other, cls in classes.items() if kind in cls.publishes]
        if len(able) > 1:
            raise ConfigError(
                f"task {name} reads {kind.__name__}, which {' and '.join(able)} publish",
                "select one of them",
            )
        if not able and kind in classes[name].requires:
            chosen = ",".join(_completed(classes))
            raise ConfigError(
                f"task {name} requires {kind.__name__}, which no selected task publishes",
                f"use task=[{chosen}], or leave {name} out",
            )
        found.update(able)
    return found


def _completed(classes: TaskTypes) -> list[str]:
    """The selected tasks and the shipped ones that they need, each after what it requires."""
    every = {**_shipped(), **classes}
    chosen: list[str] = []

    def add(name: str, path: tuple[str, ...]) -> None:
        for kind in every[name].requires:
            for other in (o for o, cls in every.items() if kind in cls.publishes):
                if other not in path:
                    add(other, (*path, name))
        if name not in chosen:
            chosen.append(name)

    for name in classes:
        add(name, (name,))
    return chosen


def _shipped() -> dict[str, type[Task]]:
    """The tasks of the shipped configuration."""
    folder = files("conf") / "task"
    found = {}
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        name = file.name.removesuffix(".yaml")
        part = OmegaConf.select(OmegaConf.create(file.read_text()), name)
        found[name] = _class_of(name, part)
    return found


def _class_of(name: str, arguments: Mapping[str, Any]) -> type[Task]:
    key = f"task.{name}._target_"
    cls: type[Task] = subclass_at(key, Task, arguments.get("_target_"))
    return cls


def _arguments(part: Mapping[str, Any]) -> dict[str, Any]:
    """Of a class that the configuration names."""
    return {name: value for name, value in part.items() if name != "_target_"}


def _check_weights(name: str, task: type[Task], weights: Iterable[str]) -> None:
    """Refuse the weight of a loss that the task does not have."""
    for loss in weights:
        if loss not in task.losses:
            raise ConfigError(
                f"task.{name}.loss_weights.{loss}: the task has no such loss",
                f"use {', '.join(task.losses)}",
            )


def _check_rows(tasks: Mapping[str, Task]) -> None:
    """Refuse a task that reads, in its loss, of other inputs than it sees."""
    for name, task in tasks.items():
        for kind in (*task.requires, *task.uses):
            publisher = next((other for other, t in tasks.items() if kind in t.publishes), name)
            views = tasks[publisher].views
            if kind.same_rows and task.views != views:
                raise ConfigError(
                    f"task {name} learns in the views {list(task.views)}, and reads "
                    f"{kind.__name__} of {publisher}, which learns in {list(views)}",
                    f"let both learn in the same view, as task.{name}.view={views[0]}",
                )


@contextmanager
def _seeded(seed: int, part: str) -> Iterator[None]:
    """Random state that depends on the run's seed and the part's name only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed * 1_000_003 + zlib.crc32(part.encode()))
        yield


def _decoders(config: ImplicitConfig) -> MakeDecoders:
    """What makes one task's decoders, as the configuration has it."""
    assert config.decoder is not None
    key = "implicit.decoder"
    make = subclass_at(f"{key}._target_", Decoder, config.decoder.get("_target_")).of_task
    given = ("widths", "neutrals", "pool")
    options = checked_arguments(key, make, _arguments(config.decoder), given)
    if "pool" in inspect.signature(make).parameters:
        options["pool"] = {}
    return partial(make, **options)
