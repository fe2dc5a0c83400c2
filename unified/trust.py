"""Files are data: which classes a configuration that comes from a file may name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unified.errors import ConfigError

OURS = ("unified", "tasks", "heads", "lightning.pytorch.loggers")
"""Packages whose classes a file may name; what they are good for is checked where they are used."""


def refuse_foreign(file: str, config: Mapping[str, Any], trust: Sequence[str]) -> None:
    """Before anything that a file names is imported, since importing executes it.

    Args:
        file: for the error.
        config: plain containers from the file.
        trust: packages, modules or classes that the user named.

    Raises:
        ConfigError: the file names something else, or wants a value of this machine.
    """
    for key, name in named_classes(config):
        if not any(name == known or name.startswith(f"{known}.") for known in (*OURS, *trust)):
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


def named_classes(config: Any) -> Iterator[tuple[str, str]]:
    """(key, dotted name) of all classes that a configuration names."""
    for path, text in _texts(config):
        parts = path.split(".")
        if parts[-1] == "_target_" or parts[:2] in (["data", "sources"], ["data", "derived"]):
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
