"""`unified train | eval | predict | info`, everything else in Hydra's override syntax."""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from unified import __version__
from unified.classes import class_at
from unified.errors import ConfigError, Stopped, UserError
from unified.files import cannot_write

USAGE = """\
unified: one network learns many vision tasks at once, with implicit knowledge (YOLOR).

  unified train   [overrides]                     train, evaluate, leave a run folder
  unified eval    ckpt=RUN/best.ckpt [overrides]  score a checkpoint
  unified predict ckpt=RUN/best.ckpt source=IMAGE|FOLDER|GLOB out=FOLDER
  unified info    [overrides]                     parameters and FLOPs by trunk, heads, codes

examples
  unified train                                   three tasks with codes on generated shapes
  unified train experiment=jde                    arms: det jdc ijdc jde ijde seg iseg
  unified train task=[detection,classification] implicit=none
  unified train trunk=yolor_csp data=coco data.root=DIR trainer.devices=4 trainer.strategy=ddp
  unified train resume=runs/unified/2026-01-31_12-00-00
  unified train weights=RUN task=[detection,stuff]  tasks that RUN lacks start anew
  unified train -m seed=0,1,2 experiment=jde,ijde

`unified train --help` lists the configuration groups and every key, `--cfg job` prints the
configuration that a command line stands for.
"""
COMMANDS = {
    "train": "unified.run.train.train",
    "eval": "unified.run.evaluate.evaluate",
    "predict": "unified.run.predict.predict",
    "info": "unified.run.info.info",
}
FIXED_WITH_MODEL = ("task", "trunk", "implicit", "experiment", "seed")
OWN_KEYS = ("command", "resume", "ckpt", "source", "out", "min_score", "trust")
USED_BY = {
    "resume": ("train",),
    "weights": ("train",),
    "ckpt": ("eval", "predict", "info"),
    "source": ("predict",),
    "out": ("train", "eval", "predict"),
}
"""Which commands a key means something to; the others refuse it."""
PATHS = ("source", "out", "ckpt", "resume", "weights", "data.root")
"""Keys whose values are taken as they stand."""
JOBS: list[tuple[list[str], Any]] = []
"""Of a sweep: the overrides of each job, and its scores, None where it failed."""
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
"""What the system says of a full disk, of a folder that may only be read, and of a broken one."""


def main() -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return
    if arguments[0] in ("--version", "version"):
        print(f"unified {__version__}")
        return
    # Lightning starts the processes of other devices with this very command line, where the
    # command already stands in Hydra's form.
    command = arguments[0].removeprefix("command=")
    if command not in COMMANDS:
        _fail(ConfigError(f"unknown command {command!r}", f"use one of: {', '.join(COMMANDS)}"))
    overrides, options = _apart(arguments[1:])
    if "--hydra-help" in options:
        _fail(ConfigError("--hydra-help tells of Hydra's own settings only", "use --help"))
    if not {"-m", "--multirun"} & set(options):
        overrides = [_quoted(override) for override in overrides]
    try:
        if not any(option.startswith("--config") for option in options):
            _check_choices(overrides)
    except UserError as error:
        _fail(error)
    # Hydra's parser stops at an override that stands behind an option.
    sys.argv = [sys.argv[0], f"command={command}", *overrides, *options]
    _compose_and_run()
    if JOBS:
        from unified.run.sweep import print_sweep

        print_sweep(JOBS)
        if any(scores is None for _, scores in JOBS):
            raise SystemExit(1)


def _apart(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Hydra's overrides, and its options with their values."""
    overrides = [a for a in arguments if a[:1] == "~" or ("=" in a and a[:1] != "-")]
    return overrides, [a for a in arguments if a not in overrides]


def _quoted(override: str) -> str:
    """A path as Hydra takes it, whatever its characters; `~` is the home folder."""
    key, _, value = override.partition("=")
    if key not in PATHS or value in ("", "null") or value[0] in "'\"":
        return override
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", os.path.expanduser(value))
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f"{key}='{escaped}{escaped[len(escaped) - trailing :]}'"


def _check_choices(arguments: list[str]) -> None:
    """Name an unknown choice of a group and the known ones, which Hydra does not for lists.

    Raises:
        ConfigError: no file of that group has the name.
    """
    if any(argument.startswith("hydra.searchpath") for argument in arguments):
        return  # there may be more choices than ours
    try:
        overrides = OverridesParser.create().parse_overrides(arguments)
    except OverrideParseException:
        return  # Hydra reports it
    for override in overrides:
        folder = files("conf") / override.key_or_group
        if not folder.is_dir() or override.is_sweep_override():
            continue
        known = sorted(f.name.removesuffix(".yaml") for f in folder.iterdir())
        value = override.value()
        if isinstance(value, list) and override.key_or_group != "task":
            raise ConfigError(
                f"{override.key_or_group}={override.get_value_element_as_str()} names several, of "
                "which one is possible",
                f"use one of: {', '.join(known)}; for a run of each: "
                f"unified train -m {override.key_or_group}={','.join(map(str, value))}",
            )
        if value is None and override.key_or_group == "task":
            raise ConfigError("task=null selects no task", "for example task=[detection]")
        for name in value if isinstance(value, list) else [value]:
            if name is not None and str(name) not in known:
                raise ConfigError(
                    f"{override.key_or_group}={name} is unknown", f"use one of: {', '.join(known)}"
                )


@hydra.main(version_base="1.3", config_path="pkg://conf", config_name="config")
def _compose_and_run(raw: DictConfig) -> None:
    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    job = HydraConfig.get().overrides.task[1:]
    if sweeping:
        print(f"job {len(JOBS) + 1}: {' '.join(job)}", flush=True)
    try:
        scores = run(raw)
        if sweeping:
            JOBS.append((job, scores))
    except UserError as error:
        if not sweeping:
            _fail(error)
        # The others go on.
        print(f"error: {error}", file=sys.stderr)
        JOBS.append((job, None))
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        _fail(cannot_write(error.filename or "a file", error))
    except (Stopped, KeyboardInterrupt) as error:
        stopped = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(stopped, file=sys.stderr)
        raise SystemExit(128 + stopped.number) from None


def run(raw: DictConfig) -> Any:
    """Validate the configuration and do what its command says."""
    from unified.schema import validate

    # Each command imports what it needs, and no more.
    command = class_at("command", COMMANDS[raw.command])
    _refuse_unused(raw)
    for chatty in ("lightning.pytorch", "lightning.fabric", "matplotlib", "faster_coco_eval"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return command(validate(_start_from_saved(raw)))


def _refuse_unused(raw: DictConfig) -> None:
    """Nothing that a user says is ignored.

    Raises:
        ConfigError: a key means nothing to the command.
    """
    for key, commands in USED_BY.items():
        if raw[key] == "":
            raise ConfigError(f"{key}= is empty", f"say which, or leave {key} out")
        if raw[key] is not None and raw.command not in commands:
            training = raw.command == "train" and key == "ckpt"
            raise ConfigError(
                f"{raw.command} does not use {key}",
                "weights=RUN starts from a network, resume=RUN goes on with a run"
                if training
                else f"leave {key} out; it belongs to: {', '.join(commands)}",
            )
    for key in ("weights", "out"):
        if raw.resume is not None and raw[key] is not None:
            raise ConfigError(
                f"resume={raw.resume} goes on in its own folder with its own weights",
                f"leave {key} out, or start a new run without resume",
            )


def _start_from_saved(raw: DictConfig) -> DictConfig:
    """With resume or ckpt, the saved configuration is the base and the command line changes it."""
    from unified.trust import refuse_foreign
    from unified.weights import ABOUT, read_checkpoint

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
        return raw
    refuse_foreign(str(file), plain, raw.trust)
    saved = OmegaConf.create(plain)
    overrides = list(HydraConfig.get().overrides.task)
    for key in OWN_KEYS:
        OmegaConf.update(saved, key, raw[key])
    return overlay(saved, raw, overrides)


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
        part = key.split(".")[0]
        if part in FIXED_WITH_MODEL and not key.startswith("task."):
            raise ConfigError(
                f"{override.input_line} cannot change a model that exists already",
                f"leave {key} out, or train a new one",
            )
        is_group = "." not in key and isinstance(composed.get(key), DictConfig)
        value = composed[key] if is_group else override.value()
        OmegaConf.update(saved, key, value, merge=False, force_add=True)
    return saved


def _fail(error: UserError) -> None:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
