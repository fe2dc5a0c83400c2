"""`unified import`: a released checkpoint becomes one of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import OmegaConf
from torch import Tensor

from unified.build import build
from unified.checkpoint import ABOUT, PREFIX, describe
from unified.errors import ConfigError, DataError
from unified.files import read_file
from unified.released import OtherNetwork, classes_of, read_released, renamed
from unified.run.checkpoints import BEST, RunCheckpoints
from unified.run.folder import output_folder, refuse_to_overwrite
from unified.schema import Config, needed, validate
from unified.task import DataSpec

FILE = f"{BEST}.ckpt"
OWN = ("command", "weights", "out", "names", "trunk")
"""Keys that do not change what the file says."""


def import_released(config: Config) -> Path:
    """Write `best.ckpt`, of the released checkpoint `weights`, into `out`.

    The model is recognised by its tensors, or named by `trunk=`. Other overrides change how it
    decodes, and what it is trained with from there on.

    Returns:
        The folder.

    Raises:
        DataError: the file is damaged, or none of the released models.
        ConfigError: the classes have no names, or overrides make another network of it.
    """
    path = needed(config.weights, "weights", "import")
    refuse_to_overwrite(config.out, [FILE])
    words = {word.partition("=")[0]: word for word in HydraConfig.get().overrides.task}
    trunk = words["trunk"].partition("=")[2] if "trunk" in words else None
    said = [word for key, word in words.items() if key not in OWN]
    state = converted(path, trunk, said, config.names)
    folder = output_folder(config.out, config.name)
    RunCheckpoints().save_checkpoint(state, folder / FILE)
    print(f"{state[ABOUT]['config']['name']}: {folder / FILE}")
    return folder


def converted(
    path: str | Path,
    trunk: str | None = None,
    overrides: Sequence[str] = (),
    names: str | Path | None = None,
) -> dict[str, Any]:
    """A released checkpoint as one of ours.

    Args:
        path: the authors' file.
        trunk: name of the model; None to recognise it by its tensors.
        overrides: of decoding and training, in the syntax of the command line.
        names: a file with the name of a class in each line, where they are not COCO's.

    Raises:
        DataError: the file is damaged, or none of the released models.
        ConfigError: the classes have no names, or overrides make another network of it.
    """
    facts: Any = OmegaConf.to_container(
        OmegaConf.create((files("conf") / "released.yaml").read_text())
    )
    models: dict[str, list[str]] = facts["models"]
    if trunk is not None and trunk not in models:
        raise ConfigError(
            f"trunk={trunk} was not released", f"leave it out, or use one of: {', '.join(models)}"
        )
    tensors = read_released(path)
    spaces = _spaces(facts["spaces"], classes_of(tensors), names)
    nearest: tuple[int, str] = (-1, "")
    for name in [trunk] if trunk else models:
        words = [*facts["recipe"], *models[name], f"trunk={name}", f"name={name}", *overrides]
        config = _composed(words)
        with torch.device("meta"):
            model = build(config, DataSpec(config.data.image_size, saved=spaces))
        try:
            found = renamed(model, tensors)
        except OtherNetwork as error:
            nearest = max(nearest, (error.matched, f"{name}: {error}"))
        else:
            return _checkpoint(config, spaces, found)
    raise DataError(
        f"weights={path} is no released model; {nearest[0]} of its tensors are those of "
        f"{nearest[1]}",
        "give a whole file of the authors",
    )


def _composed(words: Sequence[str]) -> Config:
    """What a command line stands for, from inside of one or from Python."""
    inside = GlobalHydra.instance().is_initialized()
    try:
        with nullcontext() if inside else initialize_config_module("conf", version_base="1.3"):
            return validate(compose("config", list(words)))
    except HydraException as error:
        raise ConfigError(str(error).splitlines()[0], "look at the override") from error


def _spaces(
    spaces: Mapping[str, dict[str, Any]], classes: int, names: str | Path | None
) -> dict[str, dict[str, Any]]:
    """What the outputs mean: COCO's categories, or those of a file."""
    if names is None:
        for space in spaces.values():
            if len(space["ids"]) != classes:
                raise ConfigError(
                    f"the file knows {classes} classes, which are not COCO's {len(space['ids'])}",
                    "name them: names=FILE, with a name in each line",
                )
        return dict(spaces)
    try:
        lines = read_file(Path(names)).decode().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"names={names} cannot be read: {error}", "check the path") from error
    given = [line.strip() for line in lines if line.strip()]
    if len(given) != classes:
        raise ConfigError(
            f"names={names} has {len(given)} names, the file knows {classes} classes",
            "write the name of each class in a line of its own",
        )
    own = {"ids": tuple(range(1, classes + 1)), "names": tuple(given)}
    return {kind: {**space, **own} for kind, space in spaces.items()}


def _checkpoint(
    config: Config, spaces: Mapping[str, Any], found: Mapping[str, Tensor]
) -> dict[str, Any]:
    """The network with its tensors, as training would have left it."""
    data = DataSpec(config.data.image_size, saved=spaces)
    model = build(config, data)
    model.load_state_dict(
        dict(found), strict=False
    )  # what the configuration says is no tensor there
    network = {f"{PREFIX}{name}": tensor for name, tensor in model.state_dict().items()}
    return {
        ABOUT: describe(config, data),
        "state_dict": network,
        "epoch": 0,
        "global_step": 0,
    }
