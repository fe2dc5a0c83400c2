"""One case: a real command in a process of its own, and what became of it."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processes.forked import become, command

from unified.errors import UserError

CLEAR, HYDRA, RIGHT, WRONG = "clear", "hydra's own", "accepted and right", "accepted and wrong"
TRACEBACK, CRASH, HANG, HARM = "traceback", "crash", "hang", "harm"
BAD = (WRONG, TRACEBACK, CRASH, HANG, HARM)
LIMIT = 90.0
"""Seconds after which a case hangs."""
MEMORY = 12 << 30
GONE = "neither file nor folder"


@dataclass
class Case:
    """A mutation and the command that is fed with it.

    Attributes:
        group: what is mutated.
        name: how.
        prepare: makes the inputs in an empty folder; returns the command line.
        right: looks at what an accepted case left; says what is wrong with it.
        rewrites: folders in which the command may change what is there.
    """

    group: str
    name: str
    prepare: Callable[[Path], list[str]]
    right: Callable[[Path], str | None] = lambda folder: None
    rewrites: tuple[str, ...] = ()


@dataclass
class Outcome:
    """What became of a case."""

    case: Case
    verdict: str
    said: str
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


def run(case: Case, folder: Path, kept: Sequence[Path] = ()) -> Outcome:
    """Prepare, run and judge a case.

    Args:
        case: what to do.
        folder: empty; the working folder of the command.
        kept: folders in which nothing may change.
    """
    arguments = case.prepare(folder)
    own = [folder / name for name in case.rewrites]
    given = [f for f in folder.rglob("*") if not any(f.is_relative_to(place) for place in own)]
    before = {file: _held(file) for file in given}
    around = [place for place in (folder.parent, *kept) if place.is_dir()]
    outside = _outside(around, folder)
    began = time.monotonic()
    status = _execute(arguments, folder)
    seconds = time.monotonic() - began
    said = (folder / "said.txt").read_text(errors="replace")
    changes = [f for f, held in before.items() if _held(f) != held]
    now = _outside(around, folder)
    changes += [f for f in {**outside, **now} if outside.get(f, GONE) != now.get(f, GONE)]
    verdict = _judge(case, folder, status, said, changes)
    return Outcome(case, verdict[0], verdict[1] or said, seconds)


def _execute(arguments: list[str], folder: Path) -> int | None:
    """Exit status of `unified …`, negative for a signal; None where it had to be killed."""
    log = os.open(folder / "said.txt", os.O_CREAT | os.O_WRONLY)
    child = os.fork()
    if not child:
        become(lambda: _call(arguments), folder, (log, log))
    os.close(log)
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _call(arguments: list[str]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if arguments[0] == "python":
        try:
            exec(arguments[1], {})
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        return
    command(arguments)


def _judge(
    case: Case,
    folder: Path,
    status: int | None,
    said: str,
    changes: Sequence[Path],
) -> tuple[str, str]:
    if changes:
        return HARM, f"changed or made {changes[0]}"
    if (folder / "executed").exists() or (folder.parent / "executed").exists():
        return HARM, "code was executed"
    if status is None:
        return HANG, ""
    if status < 0:
        return CRASH, f"signal {-status}"
    if "Traceback (most recent call last)" in said or status == 70:
        return TRACEBACK, ""
    if status:
        if re.search(r"error: .+\n(.*\n)*?\s+fix: .+", said):
            return CLEAR, ""
        of_a_parser = re.search(r"^\w+: error: ", said, re.MULTILINE)
        own = of_a_parser or (status == 1 and said.strip())
        return (HYDRA, "") if own else (TRACEBACK, "no error is named")
    try:
        wrong = _invalid_json(folder) or case.right(folder)
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
    return (WRONG, wrong) if wrong else (RIGHT, "")


def _invalid_json(folder: Path) -> str | None:
    """Results that are no json for others."""

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is no json")

    for file in folder.rglob("*.json"):
        if file.name in ("results.json", "predictions.json", "bbox.json"):
            try:
                json.loads(file.read_text(), parse_constant=refuse)
            except ValueError as error:
                return f"{file.name}: {error}"
    return None


def _outside(around: Sequence[Path], folder: Path) -> dict[Path, bytes | str]:
    """What is in the folders around a case's own."""
    files = (f for place in around for f in place.rglob("*") if not f.is_relative_to(folder))
    return {file: _held(file) for file in files}


def _held(file: Path) -> bytes | str:
    """What a file holds; of everything else, what it is."""
    if file.is_symlink() or not file.is_file():
        return "link" if file.is_symlink() else "folder" if file.is_dir() else GONE
    return file.read_bytes()
