"""`unified ablate`: train every arm with every seed, and compare."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from hydra import compose, initialize_config_module
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from unified.ablation import OF_A_JOB, AblationConfig
from unified.build import build, check
from unified.checkpoint import network_of, read_checkpoint
from unified.classes import subclass_at
from unified.data.prepare import prepare
from unified.data.split import Sources, Split
from unified.errors import ConfigError, DataError, JobError, Stopped
from unified.files import made, whole
from unified.run.comparison import compare
from unified.run.folder import claimed, refuse_full
from unified.run.jobs import Job, in_order, run_and_tell
from unified.schema import Config, plain, validate
from unified.task import DataSpec, Task
from unified.trust import refuse_foreign
from unified.weights import tasks_of

Launch = Callable[[Sequence[Job], Sequence[Job]], None]
"""Runs the first jobs, of all that there are."""
PLAN = "ablation.yaml"
"""File of a sweep's folder that says what was asked for last."""
OF_THE_START = ("out", "command", "resume")
"""Keys that may be others where a run is gone on with."""


def ablate(
    config: Config, words: Sequence[str] | None = None, launch: Launch | None = None
) -> dict[str, Any]:
    """Train what is not there yet, compare, and write `report.md`, tables and a picture.

    Args:
        config: of which `ablation` and `out` count.
        words: overrides for all arms, which count more than theirs; by default those of the
            command line, outside of one none.
        launch: how jobs are run; by default Hydra's launcher on a command line, else one after the
            other.

    Returns:
        Arm → task → metric → the seeds' scores.

    Raises:
        ConfigError: an arm cannot be, or a folder holds a run that was made with other settings.
        JobError: a run failed; the others were made, and the report is of what is there.
        Stopped: a signal ended it; says how to go on.
    """
    plan = config.ablation
    if plan is None:
        raise ConfigError("ablate needs ablation", "unified ablate ablation=multitask")
    hydra = HydraConfig.initialized()
    if words is None:
        words = _said() if hydra else ()
    if isinstance(words, str):
        raise ConfigError(f"words={words} is one text", "give a list of overrides")
    folder = Path(config.out or f"runs/ablations/{plan.name}")
    command = _command() if hydra else " ".join([f"ablation={plan.name}", *words])
    jobs = planned(plan, words, folder, _options() if hydra else ())
    _check(jobs)
    if not (folder / PLAN).is_file():
        refuse_full(str(folder))
    with claimed(made(folder)):
        with whole(folder / PLAN) as file:
            file.write(OmegaConf.to_yaml(asdict(plan)))
        left = [job for job in jobs if not job.finished]
        print(f"{plan.name}: {len(left)} of {len(jobs)} runs are left to do: {folder}", flush=True)
        if left:
            with _interrupted(folder):
                (launch or (by_hydra if hydra else in_order))(left, jobs)
        scores = compare(plan, jobs, f"unified ablate {command}", folder)
    failed = [job for job in jobs if not job.finished]
    if failed:
        first = failed[0]
        raise JobError(
            f"{len(failed)} of {len(jobs)} runs failed; {first.arm}, seed {first.seed}: "
            f"{first.said()}",
            "mend it, then give the same command again: what is there is kept",
        )
    return scores


def planned(
    plan: AblationConfig, words: Sequence[str], folder: Path, options: Sequence[str] = ()
) -> list[Job]:
    """All runs of a sweep: every arm with the first seed, then with the next.

    Raises:
        ConfigError: an override is the sweep's own.
    """
    for word in words:
        if _key(word) in OF_A_JOB:
            fix = {"seed": "use ablation.seeds=[0,1]", "name": "use out=FOLDER"}
            raise ConfigError(
                f"{word} would be that of every run", fix.get(_key(word), "leave it out")
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


def by_hydra(jobs: Sequence[Job], every: Sequence[Job]) -> None:
    """Run jobs by the launcher of the command line, `hydra/launcher=…`."""
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    config = OmegaConf.create({"hydra": HydraConfig.get()})
    # Where launchers leave files of their own.
    with read_write(config.hydra), open_dict(config.hydra):
        sweep = _quoted(str(every[0].folder.parent.parent / "hydra"))
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir={sweep}")
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=partial(_launched, list(every)), config=config
    )
    words = [["command=train", *job.words, f"out={_quoted(str(job.folder))}"] for job in jobs]
    launcher.launch(words, 0)


def _quoted(text: str) -> str:
    """As Hydra's grammar takes any text."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _launched(every: Sequence[Job], raw: DictConfig) -> None:
    (job,) = (job for job in every if str(job.folder) == raw.out)
    run_and_tell(job, every)


def _said() -> list[str]:
    """Overrides of the command line that are for the arms."""
    words = list(HydraConfig.get().overrides.task)
    return [w for w in words if _key(w).partition(".")[0] not in ("command", "ablation", "out")]


def _command() -> str:
    """What was said, as it can be said again."""
    said = HydraConfig.get().overrides
    words = [word for word in said.task if _key(word) != "command"]
    return " ".join([*words, *said.hydra, *_options()])


def _options() -> list[str]:
    """By which the processes of jobs find configurations of the user's own."""
    sources = HydraConfig.get().runtime.config_sources
    return [f"--config-dir={s.path}" for s in sources if s.provider == "command-line"]


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _check(jobs: Sequence[Job]) -> None:
    """Refuse what cannot be before anything is trained."""
    composed: dict[str, Config] = {}
    for job in jobs:
        if job.arm not in composed:
            try:
                composed[job.arm] = validate(_composed(job.words))
                refuse_foreign("its best.ckpt", plain(composed[job.arm]), composed[job.arm].trust)
                _refuse_impossible(composed[job.arm])
                _refuse_without(job.test, composed[job.arm])
            except (ConfigError, DataError) as error:
                raise type(error)(f"arm {job.arm}: {error.problem}", error.fix) from error
        _refuse_another(job, validate(_composed(job.words)))


def _refuse_impossible(config: Config) -> None:
    """Build what would be trained."""
    start = read_checkpoint(config.weights) if config.weights else None
    check(config, () if start is None else tasks_of(network_of(start)))
    prepare(config.data)
    build(config, DataSpec(config.data.image_size, Sources(config.data, config.data.train).open))


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
    Split(Sources(config.data, test), [task.truth.kind for task in tasks])


def _composed(words: Sequence[str]) -> DictConfig:
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


@contextmanager
def _interrupted(folder: Path) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal end the sweep when its run has saved where it stands.

    Raises:
        Stopped: says how to go on.
    """
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt  # which launchers do not take for a failed job

    listens = threading.current_thread() is threading.main_thread()
    names = ("SIGTERM", "SIGINT", "SIGHUP") if listens else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    except KeyboardInterrupt:
        number = received[0] if received else signal.SIGINT
        raise Stopped(number, f"{folder} is gone on with by the same command") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
