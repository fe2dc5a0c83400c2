"""The runs of a sweep, and what is refused before any of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from unified.ablation import OF_A_JOB, AblationConfig
from unified.build import build, check
from unified.checkpoint import network_of, read_checkpoint
from unified.classes import subclass_at
from unified.data.prepare import prepare
from unified.data.sources import Folders
from unified.data.split import Split
from unified.errors import ConfigError, DataError
from unified.overrides import check_choices
from unified.run.jobs import Job
from unified.schema import Config, plain, validate
from unified.task import DataSpec, Task
from unified.trust import refuse_foreign
from unified.weights import tasks_of

OF_THE_START = ("out", "command", "resume")
"""Keys that may be others where a run is gone on with."""


def planned(
    plan: AblationConfig, words: Sequence[str], folder: Path, options: Sequence[str] = ()
) -> list[Job]:
    """All runs of a sweep: every arm with the first seed, then with the next.

    Raises:
        ConfigError: an override is the sweep's own.
    """
    for word in words:
        if key_of(word) in OF_A_JOB:
            fix = {"seed": "use ablation.seeds=[0,1]", "name": "use out=FOLDER"}
            raise ConfigError(
                f"{word} would be that of every run", fix.get(key_of(word), "leave it out")
            )
    return [
        Job(
            arm, seed, folder / arm / f"seed-{seed}",
            (*plan.common, *own, *words, f"name={plan.name}-{arm}", f"seed={seed}"),
            plan.test, tuple(options),
        )
        for seed in plan.seeds
        for arm, own in plan.arms.items()
    ]  # fmt: skip


def key_of(word: str) -> str:
    """The key that an override is about."""
    return word.lstrip("+~").partition("=")[0]


def refuse_impossible(plan: AblationConfig, jobs: Sequence[Job]) -> None:
    """Refuse what cannot be before anything is trained."""
    composed: dict[str, Config] = {}
    for job in jobs:
        if job.arm not in composed:
            try:
                composed[job.arm] = validate(_composed(job.words))
                refuse_foreign("its best.ckpt", plain(composed[job.arm]), composed[job.arm].trust)
                if job.arm in plan.tasks:
                    _refuse_absent(plan.tasks[job.arm], composed[job.arm])
                _refuse_unbuilt(composed[job.arm])
                _refuse_without(job.test, composed[job.arm])
            except (ConfigError, DataError) as error:
                raise type(error)(f"arm {job.arm}: {error.problem}", error.fix) from error
        _refuse_another(job, validate(_composed(job.words)))


def _refuse_absent(tasks: Sequence[str], config: Config) -> None:
    """An arm is compared by what it learns, and by something."""
    if not tasks:
        raise ConfigError("ablation.tasks compares it by none", f"use {', '.join(config.task)}")
    for task in tasks:
        if task not in config.task:
            raise ConfigError(
                f"ablation.tasks compares it by {task}, which it does not learn",
                f"use {', '.join(config.task)}",
            )


def _refuse_unbuilt(config: Config) -> None:
    """Build what would be trained."""
    start = read_checkpoint(config.weights) if config.weights else None
    check(config, () if start is None else tasks_of(network_of(start)))
    prepare(config.data)
    build(config, DataSpec(config.data.image_size, Folders(config.data, config.data.train).open))


def _refuse_without(test: str | None, config: Config) -> None:
    """A split that scores is there, and chooses nothing, before anything is trained."""
    if test is None:
        return
    for key in ("train", "val"):
        if test == getattr(config.data, key):
            raise ConfigError(
                f"ablation.test={test} is data.{key}",
                "name a split that neither teaches nor chooses, or null",
            )
    tasks = [subclass_at(f"task.{n}", Task, part["_target_"]) for n, part in config.task.items()]
    Split(Folders(config.data, test), [task.truth.kind for task in tasks])


def _composed(words: Sequence[str]) -> DictConfig:
    check_choices(words, more=True)
    try:
        if GlobalHydra.instance().is_initialized():
            return compose("config", overrides=["command=train", *words])
        with initialize_config_module("conf", version_base="1.3"):
            return compose("config", overrides=["command=train", *words])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(" ".join(str(error).split()), "look at its overrides") from error


def _refuse_another(job: Job, config: Config) -> None:
    """A run that is there counts only where it was made as it would be made now."""
    file = job.folder / "config.yaml"
    if not file.is_file() and not job.trained:
        return
    try:
        saved = _flat(OmegaConf.to_container(OmegaConf.load(file)))
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise DataError(
            f"{file} cannot be read: {str(error).splitlines()[0]}",
            "restore it, or delete its folder: it is made again",
        ) from error
    if job.finished:
        job.results()
    own = _flat(json.loads(json.dumps(plain(config))))
    for key in sorted(saved.keys() | own.keys()):
        if key.split(".")[0] not in OF_THE_START and saved.get(key) != own.get(key):
            raise ConfigError(
                f"{job.folder} was made with {key}={saved.get(key)}, and now it is {own.get(key)}",
                "choose another folder, out=…, or delete that one",
            )


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key → value."""
    if not isinstance(content, dict) or not content:
        return {prefix: content}
    parts = (_flat(v, f"{prefix}.{k}" if prefix else str(k)) for k, v in content.items())
    return {key: value for part in parts for key, value in part.items()}
