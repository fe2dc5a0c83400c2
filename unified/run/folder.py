"""Where a run leaves its files."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from unified.errors import ConfigError

log = logging.getLogger(__name__)


def fresh_folder(name: str) -> Path:
    """`runs/<name>/<time>`, made, and made unique for runs that start in the same second."""
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for attempt in range(1000):
        folder = Path("runs") / name / (stamp + (f"-{attempt}" if attempt else ""))
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise ConfigError("no free name for a run folder", "set out=<folder>")


def output_folder(out: str | None, name: str) -> Path:
    """`out`, made where it is not there, or a fresh folder."""
    if out is None:
        return fresh_folder(name)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def refuse_to_overwrite(out: str | None, names: Iterable[str]) -> None:
    """Before work starts: nothing that `out` holds may be lost.

    Raises:
        ConfigError: one of the files is there already.
    """
    for name in names:
        if out is not None and (Path(out) / name).exists():
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


def _is_empty(path: Path) -> bool:
    return path.is_dir() and next(path.iterdir(), None) is None
