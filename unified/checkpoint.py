"""Checkpoints: containers and tensors of a file, looked at before anybody uses them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from omegaconf import OmegaConf
from torch import Tensor

from unified.errors import DataError
from unified.schema import Config, plain, validate
from unified.task import DataSpec
from unified.trust import Trust, refuse_foreign


class Contents(msgspec.Struct):
    """What a checkpoint says of its network."""

    config: dict[str, Any]
    spaces: dict[str, dict[str, Any]]


ABOUT = "unified"
"""Key of what a checkpoint says of its network, beside `state_dict`."""
PREFIX = "model."
"""Of the network's tensors, as Lightning's modules name them."""


def describe(config: Config, data: DataSpec) -> dict[str, Any]:
    """What a checkpoint says of its network: plain containers, no pickled objects."""
    return {
        "config": plain(config),
        "spaces": {kind: space.to_dict() for kind, space in data.spaces.items()},
    }


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Load a checkpoint's containers and tensors.

    Args:
        path: the file, or a run folder, whose `best.ckpt` is meant; `last.ckpt` where no epoch was
            validated.

    Raises:
        DataError: the file is missing or is no checkpoint of this framework.
    """
    if not isinstance(path, (str, Path)):
        raise DataError(f"{path!r} is no path of a checkpoint", "give a run's folder or best.ckpt")
    path = Path(path)
    if len(path.name) > 255:
        raise DataError(f"{path.name:.60}… is longer than a name can be", "check the path")
    if path.is_dir():
        files = [path / "best.ckpt", path / "last.ckpt"]
        path = next((file for file in files if file.is_file()), files[0])
    if not path.is_file():
        raise DataError(f"checkpoint {path} does not exist", "give a run's best.ckpt or last.ckpt")
    try:
        refuse_damaged(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        # What comes after its first sentence is advice to load it without safety.
        reason = str(error).partition(".")[0] or type(error).__name__
        raise DataError(
            f"checkpoint {path} cannot be read: {reason}",
            "use another checkpoint of the run",
        ) from error
    if not isinstance(state, dict) or ABOUT not in state:
        raise DataError(f"{path} is not a checkpoint of unified", "give a run's best.ckpt")
    _check_contents(path, state)
    return state


def refuse_damaged(path: Path) -> None:
    """Compare the sums that a checkpoint holds of its parts, which torch does not.

    Parts that grow when they are read, which torch does not write, are refused, too.
    """
    with zipfile.ZipFile(path) as parts:
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts.infolist()):
            raise ValueError("it is compressed, which torch does not do")
        damaged = parts.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} is damaged")


def _check_contents(path: Path, state: Mapping[str, Any]) -> None:
    """Refuse what lacks a part that everybody reads, or has one of another sort."""
    try:
        about: Contents = msgspec.convert(state[ABOUT], Contents)
        tensors = state["state_dict"]
        sound = all(isinstance(n, str) and is_held(v) for n, v in tensors.items())
        finite = sound and all(is_finite(tensor) for tensor in tensors.values())
        msgspec.convert(state["epoch"], Annotated[int, msgspec.Meta(ge=0, le=2**40)])
    except (KeyError, AttributeError, msgspec.ValidationError) as error:
        raise DataError(
            f"checkpoint {path} is incomplete: {error}", "use another checkpoint of the run"
        ) from error
    if not sound or not about.config:
        raise DataError(f"checkpoint {path} holds no network", "use another checkpoint of the run")
    if not finite:
        raise DataError(
            f"checkpoint {path} has weights that are not finite",
            "use another checkpoint, and a lower optim.lr",
        )


def is_held(value: Any) -> bool:
    """Whether it is a plain tensor of which the file holds every number.

    One number that stands for many would take memory without limit.
    """
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_complex())
        and value.nbytes <= value.untyped_storage().nbytes()
    )


def is_finite(tensor: Tensor) -> bool:
    """Whether every number of it is one."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor.sum(dtype=torch.float64)))


def config_of(file: str | Path, state: Mapping[str, Any], trust: Trust = None) -> Config:
    """The configuration that a checkpoint was trained with.

    Raises:
        ConfigError: it names a class that is neither of this framework nor trusted.
    """
    config = state[ABOUT]["config"]
    refuse_foreign(str(file), config, trust)
    return validate(OmegaConf.create(config))


def spaces_of(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Kind → the space that a checkpoint holds, as plain containers."""
    spaces: dict[str, dict[str, Any]] = state[ABOUT]["spaces"]
    return spaces


def network_of(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of trunk and heads, by their names in the model."""
    named = {
        name.removeprefix(PREFIX): tensor
        for name, tensor in state["state_dict"].items()
        if name.startswith(PREFIX)
    }
    return {name: tensor for name, tensor in named.items() if is_network(name)}


def for_use(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What of a training's checkpoint is needed to use the network: no state of the training."""
    network = {
        name: tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(PREFIX) and is_network(name.removeprefix(PREFIX))
    }
    kept = {key: checkpoint[key] for key in (ABOUT, "epoch", "global_step")}
    return kept | {"state_dict": network}


def is_network(name: str) -> bool:
    """Whether a tensor of the model is part of the network, not of a task's loss."""
    return name.startswith("trunk.") or name.split(".")[2:3] == ["head"]
