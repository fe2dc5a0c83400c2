"""Classes by their names: configuration names them as strings, and their arguments by key."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

from unified.errors import ConfigError


def class_at(key: str, name: Any) -> Any:
    """The class `package.module.Class`.

    Args:
        key: of the configuration that names it, for the error.
        name: dotted path.

    Raises:
        ConfigError: it cannot be imported.
    """
    if not isinstance(name, str) or "." not in name:
        raise ConfigError(f"{key}={name} names no class", "use package.module.Class, as in conf/")
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{key}={name} cannot be imported: {error}", "check the path") from error


def instantiate(key: str, arguments: Mapping[str, Any], **given: Any) -> Any:
    """Call `_target_` with the configured arguments, after checking their names.

    Of `given` a class gets what it takes.
    """
    cls = class_at(f"{key}._target_", arguments.get("_target_"))
    own = {name: value for name, value in arguments.items() if name != "_target_"}
    taken = {name: v for name, v in given.items() if name in inspect.signature(cls).parameters}
    check_arguments(key, cls, own, given)
    return cls(**taken, **own)


def check_arguments(
    key: str, call: Callable[..., Any], own: Mapping[str, Any], given: Iterable[str]
) -> None:
    """Refuse arguments that a call does not take, or that it lacks, by their configuration keys."""
    parameters = inspect.signature(call).parameters
    allowed = [name for name in parameters if name not in given]
    unknown = sorted(set(own) - set(allowed))
    if unknown:
        named = getattr(call, "__self__", call).__name__
        raise ConfigError(
            f"{key}.{unknown[0]} is not an argument of {named}", f"use {', '.join(allowed)}"
        )
    missing = [
        name
        for name in allowed
        if parameters[name].default is inspect.Parameter.empty and name not in own
    ]
    if missing:
        raise ConfigError(f"{key}.{missing[0]} is not set", f"add it: {key}.{missing[0]}=…")
