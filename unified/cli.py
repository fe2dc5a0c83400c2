"""`unified COMMAND`, everything else in Hydra's override syntax."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import traceback
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from unified import __version__
from unified.classes import class_at
from unified.errors import ConfigError, Stopped, UserError
from unified.files import cannot_write
from unified.overrides import apart, check_choices, explained, of_saved, quoted

USAGE = """\
unified: one network learns many vision tasks at once, with implicit knowledge (YOLOR).

  unified train   [overrides]                     train, evaluate, leave a run folder
  unified eval    ckpt=RUN/best.ckpt [overrides]  score a checkpoint
  unified predict ckpt=RUN/best.ckpt source=IMAGE|FOLDER|GLOB out=FOLDER
  unified info    [overrides]                     parameters and FLOPs by trunk, heads, codes
  unified ablate  ablation=NAME [overrides]       train arms with several seeds, and compare
  unified import  weights=FILE.pt out=FOLDER      take over a released YOLOR checkpoint

examples
  unified train                                   three tasks with codes on generated shapes
  unified train experiment=jde                    det jdc ijdc jde ijde seg iseg
                                                  ipose ilvis icap mtl imtl
  unified train task=[detection,classification] implicit=none
  unified train trunk=yolor_csp data=coco data.root=DIR trainer.devices=4 trainer.strategy=ddp
  unified train resume=runs/unified/2026-01-31_12-00-00
  unified train task=[detection,embedding] implicit=network implicit.decoder.shared=true
  unified train implicit.sites=[align.*] implicit.align=mul
  unified train weights=RUN task=[detection,stuff]  tasks that RUN lacks start anew
  unified train -m seed=0,1,2 experiment=jde,ijde
  unified eval ckpt=RUN/best.ckpt data.val=val2017
  unified predict ckpt=RUN/best.ckpt source=photo.jpg out=DIR
  unified ablate ablation=multitask ablation.seeds=[0,1,2]

`unified COMMAND --help` lists the configuration groups and explains every key, `--cfg job` prints
the configuration that a command line stands for.
"""
COMMANDS = {
    "train": "unified.run.train.train",
    "eval": "unified.run.evaluate.evaluate",
    "predict": "unified.run.predict.predict",
    "info": "unified.run.info.info",
    "ablate": "unified.run.ablate.ablate",
    "import": "unified.run.importer.import_released",
}
ABOUT = {
    "train": "Train and evaluate, and leave a run folder.",
    "eval": "Score a checkpoint on the validation split of its data, or of other data.",
    "predict": "Pictures and predictions.json for an image, a folder or a glob.",
    "info": "Parameters and FLOPs by trunk, heads and codes.",
    "ablate": "Train every arm of an ablation with every seed, and compare.",
    "import": "A checkpoint of the released YOLOR detectors becomes RUN/best.ckpt.",
}
USED_BY = {
    "resume": ("train",),
    "weights": ("train", "import"),
    "names": ("import",),
    "ckpt": ("eval", "predict", "info"),
    "source": ("predict",),
    "out": ("train", "eval", "predict", "ablate", "import"),
    "diagnose_every_n_steps": ("train", "ablate"),
    "ablation": ("ablate",),
}
"""Which commands a key means something to; the others refuse it."""
OWN_CHOICES = ("--config", "-cd", "-cp", "-cn")
"""Hydra's options that name a folder of the user's configuration."""
LAUNCHER = "lightning.fabric.strategies.launchers.subprocess_script"
"""Says that another process has ended, before it ends this one."""
JOBS: list[tuple[list[str], Any]] = []
"""Of a sweep: the overrides of each job, and its scores, None where it failed."""
SYSTEM = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP,
}  # fmt: skip
"""What the system says of full and broken disks, missing rights, and paths that cannot be."""


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
    words, options = apart(arguments[1:])
    if "--hydra-help" in options:
        _fail(ConfigError("--hydra-help tells of Hydra's own settings only", "use --help"))
    try:
        overrides = of_saved([quoted(w, bool({"-m", "--multirun"} & set(options))) for w in words])
        check_choices(overrides, any(option.startswith(OWN_CHOICES) for option in options))
        if {"--help", "-h"} & set(options):
            _help(command, overrides)
            return
        # Hydra's parser stops at an override that stands behind an option.
        sys.argv = [sys.argv[0], f"command={command}", *overrides, *options]
        os.environ["HYDRA_FULL_ERROR"] = "1"  # what it cannot compose is raised
        _compose_and_run()
    except UserError as error:
        _fail(error)
    except HydraException as error:
        _fail(explained(error))
    except OmegaConfBaseException as error:
        _fail(_resolved(error))
    except YAMLError as error:  # of a configuration of the user's own
        _fail(ConfigError(" ".join(str(error).split()), "mend that file"))
    if JOBS:
        from unified.run.sweep import print_sweep

        print_sweep(JOBS)
        if any(scores is None for _, scores in JOBS):
            raise SystemExit(1)


def _help(command: str, overrides: list[str]) -> None:
    from unified.help import print_help

    try:
        print_help(command, ABOUT[command], USED_BY, overrides)
    except BrokenPipeError:  # nobody reads the rest, as in `… --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@hydra.main(version_base="1.3", config_path="pkg://conf", config_name="config")
def _compose_and_run(raw: DictConfig) -> None:
    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    if sweeping and raw.command == "ablate":
        _fail(ConfigError("ablate is a sweep itself", "leave out -m"))
    job = [override.removeprefix("++") for override in HydraConfig.get().overrides.task[1:]]
    if sweeping:
        print(f"job {len(JOBS) + 1}: {' '.join(job)}", flush=True)
    scores: Any = None
    try:
        scores = run(raw)
    except (Stopped, KeyboardInterrupt) as error:
        stopped = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(stopped, file=sys.stderr)
        raise SystemExit(128 + stopped.number) from None
    except Exception as error:
        said = _of_the_user(error)
        if not sweeping:
            if said is None:
                raise
            _fail(said)
        # The other jobs go on.
        print(f"error: {said}" if said else traceback.format_exc(), file=sys.stderr)
    if sweeping:
        scored = scores is None or raw.command in ("train", "eval")
        JOBS.append((job, scores if scored else {}))


def _of_the_user(error: Exception) -> UserError | None:
    """What a user can do something about."""
    if isinstance(error, OSError) and error.errno in SYSTEM:
        if error.errno == errno.ENAMETOOLONG:
            return ConfigError(f"{error.filename:.60}… is longer than a name can be", "shorten it")
        return cannot_write(error.filename or "a file", error)
    if isinstance(error, OmegaConfBaseException):
        return _resolved(error)
    return error if isinstance(error, UserError) else None


def _resolved(error: OmegaConfBaseException) -> ConfigError:
    return ConfigError(str(error).splitlines()[0], "look at the override")


def run(raw: DictConfig) -> Any:
    """Validate the configuration and do what its command says."""
    from unified.saved import configured

    # Each command imports what it needs, and no more.
    command = class_at("command", COMMANDS[raw.command])
    _refuse_unused(raw)
    for chatty in ("lightning.pytorch", "lightning.fabric", "matplotlib", "faster_coco_eval"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.getLogger(LAUNCHER).setLevel(logging.INFO)
    return command(configured(raw))


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


def _fail(error: UserError) -> None:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
