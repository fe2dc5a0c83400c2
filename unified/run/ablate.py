"""`unified ablate`: train every arm with every seed, and compare."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from unified.errors import ConfigError, JobError, Stopped
from unified.files import made, whole
from unified.run.comparison import compare
from unified.run.folder import claimed, refuse_full
from unified.run.jobs import Job, in_order, run_and_tell
from unified.run.plan import key_of, planned, refuse_impossible
from unified.schema import Config

Launch = Callable[[Sequence[Job], Sequence[Job]], None]
"""Runs the first jobs, of all that there are."""
PLAN = "ablation.yaml"
"""File of a sweep's folder that says what was asked for last."""


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
    refuse_impossible(plan, jobs)
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
    return [w for w in words if key_of(w).partition(".")[0] not in ("command", "ablation", "out")]


def _command() -> str:
    """What was said, as it can be said again."""
    said = HydraConfig.get().overrides
    words = [word for word in said.task if key_of(word) != "command"]
    own = [word for word in said.hydra if word != "hydra.mode=RUN"]  # which Hydra adds itself
    return " ".join([*words, *own, *_options()])


def _options() -> list[str]:
    """By which the processes of jobs find configurations of the user's own."""
    sources = HydraConfig.get().runtime.config_sources
    return [f"--config-dir={s.path}" for s in sources if s.provider == "command-line"]


@contextmanager
def _interrupted(folder: Path) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal end the sweep; it says how to go on.

    A run in a process of the sweep's own has saved where it stands before; one that another
    launcher kills goes on behind its last whole epoch.

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
