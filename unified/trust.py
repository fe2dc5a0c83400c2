"""Files are data: which classes a configuration that comes from a file may name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unified.bounds import Name, checked
from unified.errors import ConfigError

Trust = str | Sequence[str] | None
OURS = (
    "unified",
    "tasks",
    "heads",
    "lightning.pytorch.loggers.TensorBoardLogger",
    "lightning.pytorch.loggers.CSVLogger",
)
"""What a file may name; what it is good for is checked where it is used. Other loggers send what
they see elsewhere."""


def refuse_foreign(file: str, config: Mapping[str, Any], trust: Trust = None) -> None:
    """Before anything that a file names is imported, since importing executes it.

    Args:
        file: for the error.
        config: plain containers from the file.
        trust: package, module or class that the user named, or several.

    Raises:
        ConfigError: the file names something else, or wants a value of this machine.
    """
    known = (*OURS, *trusted(trust))
    for key, name in named_classes(config):
        if not any(name == one or name.startswith(f"{one}.") for one in known):
            raise ConfigError(
                f"{file} names {key}={name}, which is not of this framework: using it would "
                "execute it",
                f"if you know what it does: trust=[{name.rpartition('.')[0] or name}]",
            )
    for key, text in _texts(config):
        if "${" in text:
            raise ConfigError(
                f"{file} holds {key}={text}, which would be replaced by a value of this machine",
                "write the value itself",
            )


def trusted(trust: Trust) -> list[str]:
    """The names that the user gave.

    Raises:
        ConfigError: they are no names.
    """
    several = list(trust) if isinstance(trust, Sequence) else trust
    names = [trust] if isinstance(trust, str) else [] if trust is None else several
    found: list[str] = checked("trust", names, list[Name])
    return found


def named_classes(config: Any) -> Iterator[tuple[str, str]]:
    """(key, dotted name) of all classes that a configuration names."""
    for path, text in _texts(config):
        parts = path.split(".")
        reader = len(parts) == 3 and parts[:2] in (["data", "sources"], ["data", "derived"])
        if reader or parts[-1] == "_target_":
            yield path, text


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _texts(part, f"{key}.{name}" if key else str(name))
    elif isinstance(value, Sequence):
        for index, part in enumerate(value):
            yield from _texts(part, f"{key}[{index}]")
