"""Files: read if they are some and lie where they should, written whole, kept apart by locks."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from unified.errors import DataError, OutputError

try:
    import fcntl
except ImportError:  # no such locks on this system: the user keeps writers apart
    fcntl = None  # type: ignore[assignment]


def read_file(file: Path) -> bytes:
    """All of a regular file; a pipe or device is not waited for.

    Raises:
        OSError: it is missing, unreadable, or no file.
    """
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return stream.read()


def refuse_links_out(files: Iterable[Path], folder: Path, fix: str) -> None:
    """Refuse files that are links to somewhere outside of the folder that they belong to.

    Raises:
        DataError: names the first.
    """
    inside = os.path.realpath(folder)
    parents: dict[Path, bool] = {}
    for file in files:
        away = parents.get(file.parent)
        if away is None:
            away = parents[file.parent] = not _within(file.parent, inside)
        if away or (os.path.islink(file) and not _within(file, inside)):
            raise DataError(
                f"{file} is a link that leads out of {folder}",
                fix,
            )


def _within(path: Path, inside: str) -> bool:
    real = os.path.realpath(path)
    return real == inside or real.startswith(inside + os.sep)


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
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return OutputError(
        f"{target} cannot be written: {error.strerror or error}",
        "free some space, or choose another folder" if full else "check the path and its rights",
    )


def made(folder: Path) -> Path:
    """The folder, there from now on.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder


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
    while True:
        try:
            lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        except OSError as error:
            raise cannot_write(file, error) from error
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        except (BlockingIOError, PermissionError):
            held = False
        except OSError:  # a file system without locks
            held = True
        if held and not _stands_at(lock, file):
            os.close(lock)  # whoever held it has removed it
            continue
        break
    try:
        yield held
    finally:
        # One that is not empty is somebody's own.
        if held and not os.fstat(lock).st_size and _stands_at(lock, file):
            file.unlink(missing_ok=True)
        os.close(lock)


def _stands_at(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(file))
    except FileNotFoundError:
        return False
