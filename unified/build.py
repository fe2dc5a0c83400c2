"""From configuration to objects, and from a checkpoint to a model."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class
from omegaconf import OmegaConf

from unified.errors import ConfigError, DataError, UserError
from unified.implicit.bank import MakeDecoders, fill_slots
from unified.implicit.config import ImplicitConfig
from unified.model import UnifiedModel
from unified.protocols import Task, Trunk
from unified.schema import Config, validate
from unified.specs import DataSpec, LabelSpace

CHECKPOINT_KEY = "unified"


@dataclass
class Built:
    """A network and the tasks that read its outputs, in the order in which they run."""

    model: UnifiedModel
    tasks: dict[str, Task]
    data: DataSpec


def build(config: Config, data: DataSpec) -> Built:
    """Construct trunk, heads and codes.

    Trunk and every head draw their weights from a seed of their own, and the codes come last:
    a head is the same in every run that has it, whatever other tasks or codes take part.

    Raises:
        ConfigError: a required task is missing, or arguments do not fit.
    """
    names = order_tasks({n: _required_by(n, t) for n, t in config.task.items()}, _shipped)
    with _seeded(config.seed, "trunk"):
        trunk: Trunk = _instantiate("trunk", config.trunk)
    tasks: dict[str, Task] = {}
    for name in names:
        with _seeded(config.seed, f"task.{name}"):
            tasks[name] = _instantiate(
                f"task.{name}", config.task[name], features=trunk.features, data=data
            )
    heads = {name: task.head for name, task in tasks.items()}
    if config.implicit.decoder is not None:
        with _seeded(config.seed, "codes"):
            fill_slots(config.implicit, heads, _decoders(config.implicit))
    model = UnifiedModel(trunk, heads)  # type: ignore[arg-type]
    return Built(model.to(memory_format=torch.channels_last), tasks, data)


def _decoders(config: ImplicitConfig) -> MakeDecoders:
    """What makes one task's decoders, as the configuration has it."""
    assert config.decoder is not None
    key, given = "implicit.decoder", ("widths", "neutrals")
    make = _class_of(key, config.decoder).of_task
    options = {k: v for k, v in config.decoder.items() if k != "_target_"}
    _check_arguments(key, make, options, given)
    return partial(make, **options)


def order_tasks(
    requires: Mapping[str, tuple[str, ...]],
    look_up: Callable[[str], tuple[str, ...]] = lambda name: (),
) -> list[str]:
    """Names so that each comes after what it requires, otherwise as given.

    Args:
        requires: task → the tasks that it reads.
        look_up: the same for a task that was not selected, to name a selection that works.

    Raises:
        ConfigError: a required task is switched off, or tasks require each other.
    """
    for name, needed in requires.items():
        for other in needed:
            if other not in requires:
                chosen = ",".join(_complete(requires, look_up))
                raise ConfigError(
                    f"task {name} requires task {other}, which is switched off",
                    f"use task=[{chosen}], or leave {name} out",
                )
    ordered: list[str] = []
    while len(ordered) < len(requires):
        ready = [n for n in requires if n not in ordered and all(o in ordered for o in requires[n])]
        if not ready:
            raise ConfigError(
                f"tasks require each other in a circle: {sorted(set(requires) - set(ordered))}",
                "change `requires` of one of them",
            )
        ordered.append(ready[0])
    return ordered


def _complete(
    requires: Mapping[str, tuple[str, ...]], look_up: Callable[[str], tuple[str, ...]]
) -> list[str]:
    """The selected tasks and all that they need, each after what it requires."""
    chosen: list[str] = []

    def add(name: str, path: tuple[str, ...]) -> None:
        for other in requires.get(name) or look_up(name):
            if other not in path:
                add(other, (*path, name))
        if name not in chosen:
            chosen.append(name)

    for name in requires:
        add(name, (name,))
    return chosen


def _shipped(name: str) -> tuple[str, ...]:
    """What a task of the shipped configuration requires; nothing is known of others."""
    file = files("conf") / "task" / f"{name}.yaml"
    if not file.is_file():
        return ()
    target = OmegaConf.select(OmegaConf.create(file.read_text()), f"{name}._target_")
    return _required_by(name, {"_target_": target})


@contextmanager
def _seeded(seed: int, part: str) -> Iterator[None]:
    """Random state that depends on the run's seed and the part's name only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed * 1_000_003 + zlib.crc32(part.encode()))
        yield


def _class_of(key: str, arguments: Mapping[str, Any]) -> Any:
    target = arguments.get("_target_")
    if not isinstance(target, str):
        raise ConfigError(f"{key} has no _target_", "name the class, as in conf/")
    try:
        return get_class(target)
    except (ImportError, ValueError, InstantiationException) as error:
        raise ConfigError(
            f"{key}._target_={target} cannot be imported: {error}", "check the path"
        ) from error


def _required_by(name: str, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(_class_of(f"task.{name}", arguments).requires)


def _instantiate(key: str, arguments: Mapping[str, Any], **given: Any) -> Any:
    """Call `_target_` with the configured arguments, after checking their names."""
    cls = _class_of(key, arguments)
    own = {k: v for k, v in arguments.items() if k != "_target_"}
    _check_arguments(key, cls, own, given)
    return cls(**given, **own)


def _check_arguments(
    key: str, call: Callable[..., Any], own: Mapping[str, Any], given: Iterable[str]
) -> None:
    """Refuse arguments that a call does not take, or that it lacks, by their configuration keys."""
    parameters = inspect.signature(call).parameters
    allowed = [name for name in parameters if name not in given]
    unknown = sorted(set(own) - set(allowed))
    if unknown:
        named = getattr(call, "__self__", call).__name__
        raise ConfigError(
            f"{key}.{unknown[0]} is not an argument of {named}", f"use {', '.join(allowed)}"
        )
    missing = [
        name
        for name in allowed
        if parameters[name].default is inspect.Parameter.empty and name not in own
    ]
    if missing:
        raise ConfigError(f"{key}.{missing[0]} is not set", f"add it: {key}.{missing[0]}=…")


# --- Checkpoints ----------------------------------------------------------------------------


def describe(config: Config, data: DataSpec) -> dict[str, Any]:
    """What a checkpoint says of its model: plain containers, no pickled objects."""
    return {
        "config": OmegaConf.to_container(OmegaConf.structured(config)),
        "labels": {kind: space.to_dict() for kind, space in data.labels.items()},
        "image_size": data.image_size,
    }


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint's containers and tensors.

    Raises:
        DataError: the file is missing or is no checkpoint of this framework.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "best.ckpt"
    if not path.is_file():
        raise DataError(f"checkpoint {path} does not exist", "give a run's best.ckpt or last.ckpt")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise DataError(
            f"checkpoint {path} cannot be read: {str(error).splitlines()[0]}",
            "use another checkpoint of the run",
        ) from error
    if not isinstance(state, dict) or CHECKPOINT_KEY not in state:
        raise DataError(f"{path} is not a checkpoint of unified", "give a run's best.ckpt")
    return state


def config_of(state: Mapping[str, Any]) -> Config:
    """The configuration that a checkpoint was trained with."""
    return validate(OmegaConf.create(state[CHECKPOINT_KEY]["config"]))


def rebuild(state: Mapping[str, Any], config: Config | None = None) -> Built:
    """The model of a checkpoint, in evaluation mode.

    Args:
        state: from `read_checkpoint`.
        config: the checkpoint's configuration with changes to decoding, if any.
    """
    own = state[CHECKPOINT_KEY]
    labels = {kind: LabelSpace.from_dict(space) for kind, space in own["labels"].items()}
    built = build(config or config_of(state), DataSpec(labels, own["image_size"]))
    weights = {
        name.removeprefix("model."): tensor
        for name, tensor in state["state_dict"].items()
        if name.startswith("model.")
    }
    built.model.load_state_dict(weights)
    built.model.eval()
    return built


__all__ = ["Built", "UserError", "build", "config_of", "order_tasks", "read_checkpoint", "rebuild"]
