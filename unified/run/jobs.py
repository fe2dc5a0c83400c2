"""One run of a sweep: trained and scored by processes of its own."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

import msgspec

from unified.errors import DataError, JobError
from unified.files import made
from unified.run.checkpoints import BEST
from unified.run.report import RESULTS

ATTEMPT = "$ unified "
"""Begins the log of a process, so that it is not taken for that of an earlier one."""
LAST_LINES = 5
"""Of what a process said, where it says no error of the project's own."""


class Said(msgspec.Struct):
    """What of `results.json` is compared."""

    metrics: Annotated[dict[str, dict[str, float | None]], msgspec.Meta(min_length=1)]
    primary: dict[str, str]


@dataclass(frozen=True)
class Job:
    """An arm with a seed.

    Attributes:
        arm, seed: which.
        folder: of the run.
        words: overrides of `unified train` that make it.
        test: split that scores it, or None for the one that chose its best epoch.
        options: of every command line, as `--config-dir=DIR`.
    """

    arm: str
    seed: int
    folder: Path
    words: tuple[str, ...]
    test: str | None = None
    options: tuple[str, ...] = ()

    @property
    def trained(self) -> bool:
        """Whether its training has come to its end."""
        return (self.folder / RESULTS).is_file()

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return (self._scored / RESULTS).is_file()

    @property
    def log(self) -> Path:
        """File of all that its processes say."""
        return self.folder.parent / f"{self.folder.name}.log"

    @property
    def _scored(self) -> Path:
        return self.folder if self.test is None else self.folder / f"eval-{self.test}"

    @property
    def _trust(self) -> tuple[str, ...]:
        """Whose classes the run's own files may name."""
        return tuple(word for word in self.words if word.startswith("trust="))

    def run(self) -> None:
        """Do what is left: train, go on with a training that was interrupted, score.

        Raises:
            JobError: a process ended with an error, which it quotes.
        """
        made(self.folder.parent)
        with self.log.open("a") as log:
            if not self.trained:
                begun = (self.folder / "config.yaml").is_file()
                new = (*self.words, f"out={self.folder}")
                words = (f"resume={self.folder}", *self._trust) if begun else new
                self._call(log, "train", *words)
            if not self.finished:
                assert self._scored != self.folder, "a training that ended well has its results"
                shutil.rmtree(self._scored, ignore_errors=True)  # of a process that was killed
                best = self.folder / f"{BEST}.ckpt"
                where = (f"data.val={self.test}", f"out={self._scored}")
                self._call(log, "eval", f"ckpt={best}", *where, *self._trust)

    def _call(self, log: IO[str], *words: str) -> None:
        command = [sys.executable, "-m", "unified.cli", *words, *self.options]
        log.write(f"{ATTEMPT}{' '.join(words)}\n")
        log.flush()
        # Apart from the terminal: Ctrl-C is for the sweep, which passes it on once.
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait()
        except BaseException:
            process.send_signal(signal.SIGTERM)  # a training saves where it stands
            process.wait()
            raise
        if code:
            log.write(f"status {code}\n")
            log.flush()
            raise JobError(f"{self.arm}, seed {self.seed}: {self.said()}", f"see {self.log}")

    def said(self) -> str:
        """Why it ended, as far as its log tells."""
        text = self.log.read_text() if self.log.is_file() else ""
        lines = text.rpartition(ATTEMPT)[2].splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        return errors[-1].removeprefix("error: ") if errors else " / ".join(lines[-LAST_LINES:])

    def results(self) -> dict[str, Any]:
        """What `results.json` of the training says, with the scores that count.

        Raises:
            DataError: a file of it is damaged.
        """
        facts, scored = _read(self.folder / RESULTS), _read(self._scored / RESULTS)
        return facts | {"metrics": scored["metrics"], "primary": scored["primary"]}


def _read(file: Path) -> dict[str, Any]:
    """What a finished run says of itself."""
    try:
        content: dict[str, Any] = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
        msgspec.convert(content, Said)
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(
            f"{file} is damaged: {error}", "restore it, or delete its folder: it is made again"
        ) from error
    return content


def in_order(jobs: Sequence[Job], told: Sequence[Job]) -> None:
    """Run jobs one after the other in this process; one that fails does not hold up the others."""
    for job in jobs:
        run_and_tell(job, told)


def run_and_tell(job: Job, every: Sequence[Job]) -> None:
    """Run a job, and say how it went."""
    print(f"{job.arm}, seed {job.seed}: {job.log}", flush=True)
    try:
        job.run()
    except JobError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return
    found = job.results()
    values = {task: found["metrics"][task][name] for task, name in found["primary"].items()}
    scores = [
        f"{task} {found['primary'][task]} {'–' if value is None else f'{value:.4f}'}"
        for task, value in values.items()
    ]
    done = sum(one.finished for one in every)
    print(
        f"{job.arm}, seed {job.seed}: {', '.join(scores)} ({found['minutes']} min); "
        f"{done} of {len(every)} runs are there",
        flush=True,
    )
