"""A configuration that was saved, changed by what the command line says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from unified.data.shapes.config import STAMP
from unified.errors import ConfigError
from unified.schema import Config, validate
from unified.trust import refuse_foreign, trusted

FIXED_WITH_MODEL = ("task", "trunk", "implicit", "experiment", "seed")
ELSEWHERE = ("default_root_dir", "profiler", "model_registry")
"""Arguments of Lightning's trainer by which it writes to places of their own."""
OWN_KEYS = ("command", "resume", "ckpt", "source", "out", "min_score", "trust")


def configured(raw: DictConfig) -> Config:
    """The typed configuration of a command.

    With resume or ckpt, the saved one is the base and the command line changes it; with weights, it
    says what its tasks would measure.

    Args:
        raw: what Hydra composed of the command line.

    Raises:
        ConfigError: it is not possible, or what was saved may not be used.
    """
    from unified.checkpoint import ABOUT, read_checkpoint

    if raw.command == "train" and raw.resume:
        file = Path(raw.resume) / "config.yaml"
        if not file.is_file():
            raise ConfigError(
                f"resume={raw.resume} is not a run folder: it has no config.yaml",
                "give the folder that `unified train` printed",
            )
        plain = _read_config(file)
    elif raw.command in ("eval", "predict", "info") and raw.ckpt:
        file, plain = raw.ckpt, read_checkpoint(raw.ckpt)[ABOUT]["config"]
    else:
        if raw.command == "train" and raw.weights:
            told = _told(raw, read_checkpoint(raw.weights)[ABOUT]["config"])
            refuse_foreign(str(raw.weights), told, raw.trust)
            for key, value in told.items():
                OmegaConf.update(raw, key, value)
        return validate(raw)
    refuse_foreign(str(file), plain, raw.trust)
    saved = OmegaConf.create(plain)
    overrides = list(HydraConfig.get().overrides.task)
    for key in OWN_KEYS:
        OmegaConf.update(saved, key, raw[key])
    config = validate(overlay(saved, raw, overrides))
    if raw.command in ("train", "eval"):
        _refuse_places(str(file), config, {*_keys(overrides), *trusted(raw.trust)})
    return config


def _told(raw: DictConfig, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Key → what weights were told, of that which a task would measure otherwise, as anchors."""
    tasks = saved.get("task") or {}
    return {
        f"task.{name}.{key}": tasks[name][key]
        for name, arguments in raw.task.items()
        for key, value in arguments.items()
        if value == "auto" and key in (tasks.get(name) or {})
    }


def _refuse_places(file: str, config: Config, said: set[str]) -> None:
    """A file does not choose where things are written.

    Args:
        file: for the error.
        config: what it says, changed by the command line.
        said: keys and groups of the command line, and keys that are trusted.

    Raises:
        ConfigError: what only the file says leads out of the folders that are written to.
    """
    for key, value in _places(config):
        if not any(key == one or key.startswith(f"{one}.") for one in said):
            raise ConfigError(
                f"{file} says {key}={value}, which would write outside of the run's folder",
                f"if you mean it, say it again: {key}=…, or trust=[{key}]",
            )


def _places(config: Config) -> Iterator[tuple[str, Any]]:
    """Keys whose values write somewhere else than a run's folder."""
    for name in ELSEWHERE:
        if config.trainer.get(name) is not None:
            yield f"trainer.{name}", config.trainer[name]
    for name, value in (config.logger or {}).items():
        # Of its other texts, some are names of folders.
        if name != "_target_" and isinstance(value, str) and not _is_one_name(value):
            yield f"logger.{name}", value
    root = Path(config.data.root)
    generated = config.data.shapes is not None and not (root / STAMP).is_file()
    inside = not root.is_absolute() and ".." not in root.parts and root.parts
    if generated and not inside:
        yield "data.root", root


def _is_one_name(text: str) -> bool:
    return text == "" or (PurePath(text).name == text and text != "..")


def _keys(overrides: list[str]) -> Iterator[str]:
    """The keys that a command line says."""
    for override in OverridesParser.create().parse_overrides(overrides):
        yield override.key_or_group


def _read_config(file: Path) -> dict[str, Any]:
    """The plain containers of a run's `config.yaml`.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        config = OmegaConf.to_container(OmegaConf.load(file))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{file} cannot be read: {reason}", "restore it") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{file} holds no configuration", "restore it")
    return {str(key): value for key, value in config.items()}


def overlay(saved: DictConfig, composed: DictConfig, overrides: list[str]) -> DictConfig:
    """Change `saved` by what the command line says.

    A group (`data=coco`) is taken whole from the composed configuration, a key by its value.

    Raises:
        ConfigError: the override would make another model of it.
    """
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.key_or_group
        if key in OWN_KEYS:
            continue
        part, _, rest = key.partition(".")
        name = rest.partition(".")[0]
        if part == "task" and name and name not in saved.task:
            raise ConfigError(
                f"{key}: the checkpoint has no task {name}", f"it has {', '.join(saved.task)}"
            )
        if part in FIXED_WITH_MODEL and not key.startswith("task."):
            raise ConfigError(
                f"{override.input_line} cannot change a model that exists already",
                f"leave {key} out, or train a new one",
            )
        is_group = "." not in key and isinstance(composed.get(key), DictConfig)
        value = composed[key] if is_group else override.value()
        OmegaConf.update(saved, key, value, merge=False, force_add=True)
    return saved
