"""Going on with a run: from which state, and that it is the state of this very training."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, cast

import lightning.pytorch as pl
import msgspec
import torch

from unified.checkpoint import ABOUT, is_held, read_checkpoint
from unified.errors import ConfigError, DataError
from unified.files import refuse_links_out
from unified.module import UnifiedModule
from unified.run.checkpoints import BEST, LAST
from unified.run.history import read_history
from unified.run.report import RESULTS

log = logging.getLogger(__name__)
MOMENTS = {"adamw": ("step", "exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}
"""What each optimiser has seen of a parameter."""
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
Number = Annotated[int, msgspec.Meta(ge=0, le=2**40)]


class Group(msgspec.Struct):
    """Parameters that learn alike."""

    name: str
    params: list[Number]


class Optimizer(msgspec.Struct):
    """State of an optimiser."""

    state: dict[int, dict[str, Any]]
    param_groups: Annotated[list[Group], msgspec.Meta(min_length=1)]


class Schedule(msgspec.Struct):
    """State of the schedule of rates."""

    last_epoch: Number
    lr_lambdas: list[None]


class Passed(msgspec.Struct):
    """How many epochs came to which point."""

    ready: Number
    started: Number
    processed: Number
    completed: Number


class Epochs(msgspec.Struct):
    """Those of this training, and of it with all that it went on from."""

    current: Passed
    total: Passed


class Completed(msgspec.Struct):
    """How many steps were made."""

    completed: Number


class Stepped(msgspec.Struct):
    """Those of the whole training."""

    total: Completed


class Stepping(msgspec.Struct):
    """What an optimiser did."""

    step: Stepped


class Optimization(msgspec.Struct):
    """State of the loop over steps."""

    optimizer: Stepping


class FitLoop(msgspec.Struct):
    """State of the loop over epochs."""

    epoch_progress: Epochs
    steps: Optimization = msgspec.field(name="epoch_loop.automatic_optimization.optim_progress")


class Loops(msgspec.Struct):
    """States of Lightning's loops."""

    fit_loop: FitLoop


class Training(msgspec.Struct):
    """What of a checkpoint Lightning goes on with."""

    epoch: Number
    global_step: Number
    optimizer_states: Annotated[list[Optimizer], msgspec.Meta(min_length=1, max_length=1)]
    lr_schedulers: Annotated[list[Schedule], msgspec.Meta(min_length=1, max_length=1)]
    loops: Loops
    callbacks: dict[str, Any]
    version: Annotated[str, msgspec.Meta(pattern=r"^\d+\.\d+")] = msgspec.field(
        name="pytorch-lightning_version"
    )


def last_of(resume: str) -> dict[str, Any] | None:
    """The state to go on with, if the run has one; without, it starts anew.

    Raises:
        DataError: the run was trained, and its state is gone or damaged; or a file of it leads
            out of its folder, where it would be written to.
    """
    folder = Path(resume)
    inside = (Path(at) / name for at, *names in os.walk(folder) for name in chain(*names))
    refuse_links_out(inside, folder, "put the file itself there: it would be written to")
    log.info("resuming %s", resume)
    last, best = (folder / f"{name}.ckpt" for name in (LAST, BEST))
    if last.is_file():
        state = read_checkpoint(last)
        try:
            msgspec.convert(state, Training)
        except msgspec.ValidationError as error:
            raise DataError(
                f"{last} holds no state of a training: {error}",
                f"start a new run from its weights: weights={resume}",
            ) from error
        return state
    if best.is_file() and (_was_trained(folder) or read_checkpoint(best)["epoch"] > 0):
        raise DataError(
            f"resume={resume} has no {last.name} to go on with",
            f"put it back, or start a new run from its weights: weights={resume}",
        )
    log.info("nothing was saved before it ended: it starts anew")
    return None


def _was_trained(folder: Path) -> bool:
    """Whether more than a first epoch is lost: its best one may have been the first."""
    table = folder / "metrics.csv"
    return (folder / RESULTS).is_file() or (table.is_file() and len(read_history(table)) > 1)


def refuse_another(state: Mapping[str, Any], module: UnifiedModule) -> None:
    """What the state of a training belongs to cannot change on the way.

    Raises:
        ConfigError: optimiser, parameters or their order are others than those of the state.
    """
    name, chosen = state[ABOUT]["config"]["optim"]["name"], module.config.optim.name
    if chosen != name:
        raise ConfigError(
            f"optim.name={chosen} cannot go on with the state of {name}",
            "leave optim out, or start a new run with weights=RUN",
        )
    saved = {name: tuple(tensor.shape) for name, tensor in state["state_dict"].items()}
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    other = sorted(name for name in saved.keys() | own.keys() if saved.get(name) != own.get(name))
    if other:
        raise ConfigError(
            f"{other[0]} is {saved.get(other[0], 'not')} in the state of the training, "
            f"{own.get(other[0], 'not')} in this run",
            "leave out changes of weighting and of what tasks keep, or start a new run with "
            "weights=RUN",
        )
    training = msgspec.convert(state, Training)
    _refuse_another_place(training, module)
    if list(saved) != list(own):
        raise ConfigError(
            "the tasks stand in another order than in the state of the training",
            "restore config.yaml: the optimiser knows parameters by their order",
        )
    optimizer = state["optimizer_states"][0]
    _refuse_other_groups(optimizer, module)
    if training.global_step or optimizer["state"]:
        _refuse_other_moments(optimizer["state"], training.global_step, module)


def _refuse_another_place(training: Training, module: UnifiedModule) -> None:
    """All that counts epochs and steps counts the same, and not beyond the end."""
    fit, steps = training.loops.fit_loop, training.global_step
    passed = fit.epoch_progress.current
    epochs = passed.processed
    for key, behind in (("epochs", epochs), ("steps", steps)):
        limit = module.config.trainer.get(f"max_{key}")
        if limit is not None and -1 < limit < behind:
            raise ConfigError(
                f"trainer.max_{key}={limit}, and the run has {behind} {key} behind it",
                "raise it, or start a new run with weights=RUN",
            )
    places = {
        "the schedule of rates": training.lr_schedulers[0].last_epoch,
        "the loop over batches": fit.steps.optimizer.step.total.completed,
    }
    others = [f"{who} stands at step {at}" for who, at in places.items() if at != steps]
    begun = passed.ready == passed.started == training.epoch + 1
    if not (begun and training.epoch <= passed.completed <= epochs <= passed.started):
        others.append(f"the loop over epochs stands in epoch {training.epoch}")
    if others or steps < epochs:
        raise ConfigError(
            ", ".join([*others, f"the run at step {steps}, and it has {epochs} epochs behind it"]),
            "the state is damaged: start a new run with weights=RUN",
        )


def _refuse_other_groups(state: Mapping[str, Any], module: UnifiedModule) -> None:
    """An optimiser knows parameters by their places in its groups."""
    groups = module.parameter_groups()
    saved = [(group["name"], len(group["params"])) for group in state["param_groups"]]
    own = [(group["name"], len(group["params"])) for group in groups]
    if saved != own:
        raise ConfigError(
            f"the optimiser's groups of parameters are {saved} in the state of the training, "
            f"{own} in this run",
            "the state is damaged or of an earlier version: start a new run with weights=RUN",
        )
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    if numbers != list(range(sum(len(group["params"]) for group in groups))):
        raise ConfigError(
            "the optimiser's parameters are not numbered one after the other in the state of the "
            "training",
            "the state is damaged: start a new run with weights=RUN",
        )


def _refuse_other_moments(
    state: Mapping[int, Mapping[str, Any]], steps: int, module: UnifiedModule
) -> None:
    """An optimiser computes with what it has seen of each parameter, and asks nothing before."""
    parameters = [p for group in module.parameter_groups() for p in group["params"]]
    names = MOMENTS[module.config.optim.name]
    known = {(i, name) for i, p in enumerate(parameters) if p.requires_grad for name in names}
    saved = {(i, name): value for i, own in state.items() for name, value in own.items()}
    for index, name in sorted(known | saved.keys()):
        if (index, name) not in known:
            wrong: str | None = "is of nothing that learns"
        elif name == "step":
            wrong = _wrong(saved.get((index, name)), torch.Size(()), lowest=1, highest=steps)
        else:
            lowest = 0 if name == "exp_avg_sq" else None
            wrong = _wrong(saved.get((index, name)), parameters[index].shape, lowest=lowest)
        if wrong:
            raise ConfigError(
                f"the optimiser's {name} of parameter {index} {wrong}",
                "the state is damaged: start a new run with weights=RUN",
            )


def _wrong(
    value: Any, shape: torch.Size, *, lowest: int | None, highest: int | None = None
) -> str | None:
    """Why it cannot be what an optimiser has seen of a parameter."""
    if value is None:
        return "is missing"
    if not is_held(value) or value.dtype not in FLOATS:
        return "is no plain tensor of numbers"
    if value.shape != shape:
        return f"is {tuple(value.shape)}, the parameter {tuple(shape)}"
    if not value.isfinite().all():
        return "is not finite"
    if lowest is not None and (value < lowest).any():
        return f"is below {lowest}"
    if highest is not None and (value > highest).any():
        return f"is {value.max():g}, the run at step {highest}"
    return None


class TellChanges(pl.Callback):
    """Says, where training goes on, what of the optimiser is another than where the run stood."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.before = state[ABOUT]["config"]["optim"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            for key, now in vars(cast(UnifiedModule, pl_module).config.optim).items():
                if self.before.get(key, now) != now:
                    log.info("optim.%s was %r, and is %r from here on", key, self.before[key], now)
