"""What of a checkpoint fits a network."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from unified.build import build
from unified.checkpoint import ABOUT, is_network, network_of, spaces_of
from unified.errors import ConfigError
from unified.kinds.kind import Ask, Space
from unified.model import UnifiedModel
from unified.schema import Config
from unified.task import DataSpec, Task, space_of

log = logging.getLogger(__name__)


def rebuild(state: Mapping[str, Any], config: Config) -> tuple[UnifiedModel, DataSpec]:
    """The network of a checkpoint, in evaluation mode, and what it knows of its data.

    Args:
        state: from `read_checkpoint`.
        config: the checkpoint's configuration, with changes to decoding, if any.

    Raises:
        ConfigError: the changes make another network of it.
    """
    config = without_pretrained(config)
    data = DataSpec(config.data.image_size, saved=spaces_of(state))
    model = build(config, data)
    fit_exactly(state, model, config).load()
    model.eval()
    return model, data


def without_pretrained(config: Config) -> Config:
    """For a network whose weights are replaced at once: nothing is downloaded for nothing."""
    trunk, *tasks = (
        {**part, "pretrained": type(part["pretrained"])()} if part.get("pretrained") else part
        for part in (config.trunk, *config.task.values())
    )
    return replace(config, trunk=trunk, task=dict(zip(config.task, tasks, strict=True)))


def fit_exactly(state: Mapping[str, Any], model: UnifiedModel, config: Config) -> Fit:
    """All of a checkpoint's network, for a model that was built by a configuration.

    Raises:
        ConfigError: the model is another one.
    """
    tasks = model.named_tasks()
    known = {name: (*task.measured, *task.meaning) for name, task in tasks.items()}
    _refuse_changed(known, config, state[ABOUT]["config"])
    fit = Fit(model, network_of(state))
    if fit.differences:
        raise ConfigError(
            f"the configuration makes another network than the checkpoint holds: "
            f"{listed(fit.differences)}",
            "leave out the changes of layers; of task.* those of loss and decoding, as "
            "max_detections, are possible. Where nothing was changed, the file is of an earlier "
            "version: train anew",
        )
    return fit


def _refuse_changed(
    known: Mapping[str, Sequence[str]], config: Config, saved: Mapping[str, Any]
) -> None:
    """What no tensor's size tells, but trained weights were made with.

    Args:
        known: task → names of such arguments.
        config: of the model at hand.
        saved: the configuration of the weights.
    """
    for name, keys in known.items():
        for key in keys:
            if config.task[name].get(key) != saved["task"].get(name, {}).get(key):
                raise ConfigError(
                    f"task.{name}.{key} cannot change a network that is trained: it has its own",
                    f"leave task.{name}.{key} as it was there",
                )


def start_from(
    config: Config, state: Mapping[str, Any], model: UnifiedModel, spaces: Mapping[str, Space]
) -> None:
    """Take what fits from a checkpoint, before training; new tasks and codes start anew.

    What tasks measure on their data, as anchors, stays that of the data at hand.

    Args:
        config: of the model, with the file or run folder that it starts from, `weights`.
        state: what `read_checkpoint` gives of that.
        model: that takes the weights; what it could not take is listed in the log.
        spaces: kind → what the model's numbers mean.

    Raises:
        ConfigError: something else than a task or a code is new, of another shape, or left over,
            or the classes are others.
    """
    path, tasks = str(config.weights), model.named_tasks()
    measured = {f"tasks.{t}.head.{key}" for t, task in tasks.items() for key in task.measured}
    fit = Fit(model, {n: t for n, t in network_of(state).items() if n not in measured}, measured)
    shared = tasks_of(fit.tensors) & set(tasks)
    _refuse_changed({name: tasks[name].meaning for name in shared}, config, state[ABOUT]["config"])
    _refuse_other_spaces(path, [tasks[name] for name in shared], spaces, spaces_of(state))
    refused = {
        name: how
        for name, how in fit.differences.items()
        if not is_code(name) and _task_of(name) in {None, *shared}
    }
    if refused:
        raise ConfigError(
            f"weights={path} do not fit this network: {listed(refused)}",
            "choose the trunk, the task's arguments and the classes that they were trained with; "
            "a task that shall start anew needs a name that they do not have",
        )
    fit.load()
    log.info("weights=%s: %d tensors taken", path, len(fit.taken))
    for how in fit.differences.values():
        log.info("weights=%s: %s", path, how)


def _refuse_other_spaces(
    path: str | Path,
    tasks: Iterable[Task],
    spaces: Mapping[str, Space],
    saved: Mapping[str, Mapping[str, Any]],
) -> None:
    """A number of the file must mean what it means here."""
    asks: dict[str, type[Ask]] = {}
    for task in tasks:
        asks |= {task.truth.kind: task.truth} | {ask.kind: type(ask) for ask in task.asks}
    for kind in asks.keys() & saved.keys() & spaces.keys():
        difference = spaces[kind].differs(space_of(asks[kind], saved[kind]))
        if difference:
            raise ConfigError(
                f"weights={path} were trained for other {kind} than these: {difference}",
                "use the categories, with their ids, or the tokenizer that they were trained with",
            )


class Fit:
    """Which tensors of a file fit a model.

    Args:
        model: that may take them.
        tensors: name → tensor, from a file.
        without: names of the model's tensors that stay as they are.

    Attributes:
        taken: names of those that fit.
        differences: name → how model and file differ, in names and shapes.
    """

    def __init__(
        self, model: UnifiedModel, tensors: Mapping[str, Tensor], without: Collection[str] = ()
    ) -> None:
        self.model, self.tensors = model, tensors
        own = {
            name: tuple(tensor.shape)
            for name, tensor in model.state_dict().items()
            if is_network(name) and name not in without
        }
        given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self.taken = [name for name, shape in own.items() if given.get(name) == shape]
        self.differences = {
            name: f"{name} is {shape} in the network, {given[name]} in the file"
            for name, shape in own.items()
            if name in given and given[name] != shape
        }
        for name, shape in own.items():
            if name not in given:
                self.differences[name] = f"{name} {shape} is not in the file"
        for name, shape in given.items():
            if name not in own:
                self.differences[name] = f"{name} {shape} is in the file only"

    def load(self) -> None:
        """Copy what fits into the model."""
        self.model.load_state_dict({n: self.tensors[n] for n in self.taken}, strict=False)


def listed(differences: Mapping[str, str]) -> str:
    """The first of the differences, and how many there are."""
    lines = list(differences.values())
    more = f", … ({len(lines)} tensors)" if len(lines) > 3 else ""
    return ", ".join(lines[:3]) + more


def is_code(name: str) -> bool:
    """Whether a tensor of the model belongs to what fills a slot."""
    return "code" in name.split(".")


def tasks_of(names: Iterable[str]) -> set[str]:
    """The tasks whose heads have some of these tensors."""
    return {task for name in names if (task := _task_of(name)) is not None}


def _task_of(name: str) -> str | None:
    """The task whose head a tensor belongs to; None for the trunk's."""
    parts = name.split(".")
    return parts[1] if parts[0] == "tasks" else None
