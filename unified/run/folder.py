"""Where a run leaves its files."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from unified.errors import ConfigError
from unified.files import cannot_write, locked, made

log = logging.getLogger(__name__)
LOCK = ".lock"


def fresh_folder(name: str) -> Path:
    """`runs/<name>/<time>`, made, and made unique for runs that start in the same second."""
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for attempt in range(1000):
        folder = Path("runs") / name / (stamp + (f"-{attempt}" if attempt else ""))
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise cannot_write(folder, error) from error
        return folder
    raise ConfigError("no free name for a run folder", "set out=<folder>")


def output_folder(out: str | None, name: str) -> Path:
    """`out`, made where it is not there, or a fresh folder."""
    if out is None:
        return fresh_folder(name)
    return made(Path(out))


def refuse_to_overwrite(out: str | None, names: Iterable[str]) -> None:
    """Before work starts: nothing that `out` holds may be lost.

    Raises:
        ConfigError: one of the files is there already.
    """
    for name in names:
        if out is not None and os.path.lexists(Path(out) / name):
            raise ConfigError(f"out={out} already holds {name}", "choose another folder")


def refuse_full(out: str | None) -> None:
    """Before work starts: files of a run do not mix with others.

    Raises:
        ConfigError: `out` is there, and is no empty folder.
    """
    if out is not None and Path(out).exists() and not _is_empty(Path(out)):
        raise ConfigError(
            f"out={out} is there already and no empty folder",
            f"choose another folder; a run that is there goes on with unified train resume={out}",
        )


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a run's folder: two processes that write into one would mix their files.

    Raises:
        ConfigError: another process holds it.
    """
    with locked(folder / LOCK, wait=False) as held:
        if not held:
            raise ConfigError(
                f"another process is writing into {folder}",
                "wait for its end, stop it, or choose another folder",
            )
        yield


def abandon(folder: Path, itself: bool) -> None:
    """Leave nothing behind of a run that was refused before anything was learnt.

    The folder was new or empty, and is claimed; other hidden files in it are somebody's own.

    Args:
        folder: of the run.
        itself: the folder is the run's, too.
    """
    if any(folder.glob("*.ckpt")):
        return
    for entry in folder.iterdir():
        if entry.name.startswith(".") and entry.name != LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    if itself:
        with suppress(OSError):
            folder.rmdir()


def _is_empty(path: Path) -> bool:
    """Hidden files are no files of a run, as the lock of one that began nothing."""
    return path.is_dir() and all(file.name.startswith(".") for file in path.iterdir())
