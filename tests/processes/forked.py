"""Commands in processes that are forked from one which has imported everything already.

Starting an interpreter and importing torch takes longer than most commands that tests give. What
runs is all of the console script, from its first line on, in a process of its own.

python forked.py reads one request per line: arguments, folder, environment, files for the output.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

import torch

LIMIT = 600
"""Seconds after which a command that hangs is ended."""
Answer = subprocess.CompletedProcess[str]
PLAIN = {"COLUMNS": "120", "OMP_NUM_THREADS": "1", "PATH": ""}
"""Where commands run; METEOR's Java, which takes ten seconds to begin, is not found there."""


def import_all() -> None:
    """Import what commands import; they are single-threaded, as forks have to be."""
    torch.set_num_threads(1)
    import faster_coco_eval  # noqa: F401
    import matplotlib.pyplot  # noqa: F401

    import unified.run.evaluate
    import unified.run.info
    import unified.run.predict
    import unified.run.train  # noqa: F401


def become(call: Callable[[], Any], folder: Path, outputs: Sequence[int]) -> NoReturn:
    """In a forked child: call something, and end as an interpreter would."""
    code = 70
    try:
        os.setsid()
        signal.alarm(LIMIT)
        os.chdir(folder)
        for stream, output in enumerate(outputs, 1):
            os.dup2(output, stream)
        try:
            call()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def command(arguments: Sequence[str]) -> None:
    """`unified …`."""
    from unified.cli import main

    sys.argv = ["unified", *arguments]
    main()


def serve() -> None:
    """Until nobody asks any more."""
    import_all()
    for line in sys.stdin:
        arguments, folder, environment, outputs = json.loads(line)
        child = os.fork()
        if not child:
            os.environ |= environment
            sys.path[:0] = environment.get("PYTHONPATH", "").split(os.pathsep)
            become(
                lambda arguments=arguments: command(arguments),
                folder,
                [os.open(o, os.O_WRONLY | os.O_CREAT) for o in outputs],
            )
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


class Forks:
    """Starts the server, and asks it."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **PLAIN},
        )  # fmt: skip

    def run(self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Answer:
        """What a command says, and its exit status."""
        asked: IO[str] = self._server.stdin  # type: ignore[assignment]
        answered: IO[str] = self._server.stdout  # type: ignore[assignment]
        with tempfile.TemporaryDirectory() as place:
            outputs = [str(Path(place) / name) for name in ("stdout", "stderr")]
            asked.write(json.dumps([arguments, str(folder), dict(environment), outputs]) + "\n")
            asked.flush()
            status = int(answered.readline())
            texts = [Path(output).read_text() for output in outputs]
        return Answer(list(arguments), status, *texts)

    def close(self) -> None:
        """End the server."""
        self._server.communicate(timeout=30)


if __name__ == "__main__":
    serve()
