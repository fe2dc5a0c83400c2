"""Files that are written whole or not at all, and locks that keep writers apart."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from unified.errors import OutputError

try:
    import fcntl
except ImportError:  # no such locks on this system: the user keeps writers apart
    fcntl = None  # type: ignore[assignment]


@contextmanager
def whole(target: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file to write: it takes the place of `target` when all of it is on the disk.

    A process that is killed, or a disk that is full, leaves the previous file as it was.

    Raises:
        OutputError: it cannot be written; nothing of it stays behind.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        with partial.open(mode, newline=None if "b" in mode else "") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def cannot_write(target: str | Path, error: OSError) -> OutputError:
    """What to say when the system refuses to write."""
    return OutputError(
        f"{target} cannot be written: {error.strerror or error}",
        "free some space, or choose a folder that can be written to by out=",
    )


@contextmanager
def locked(file: Path, wait: bool) -> Iterator[bool]:
    """Hold a lock that ends with the process; forked workers do not inherit it.

    Args:
        file: that stands for what is locked; made where it is not there.
        wait: for whoever holds it.

    Yields:
        Whether it is held.
    """
    if fcntl is None:
        yield True
        return
    try:
        stream = file.open("w")
    except OSError as error:
        raise cannot_write(file, error) from error
    with stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        except BlockingIOError:
            held = False
        except OSError:  # a file system without locks
            held = True
        yield held
