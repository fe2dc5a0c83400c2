"""Classes by their names: configuration names them as strings, and their arguments by key."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

from unified.bounds import checked, known_arguments
from unified.errors import ConfigError

TARGET = "_target_"
"""Key of a class's name, beside its arguments."""
COLLECTING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
"""Parameters that stand for any others."""


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


def subclass_at(key: str, contract: type, name: Any) -> Any:
    """The class `package.module.Class`, of a sort.

    Raises:
        ConfigError: it cannot be imported, or is of another sort.
    """
    cls = class_at(key, name)
    if not (isinstance(cls, type) and issubclass(cls, contract)) or inspect.isabstract(cls):
        raise ConfigError(
            f"{key}={name} is no {contract.__name__}", "name a class that is one, as in conf/"
        )
    return cls


def instantiate(key: str, contract: type, arguments: Mapping[str, Any], **given: Any) -> Any:
    """Call `_target_` with the configured arguments, after checking them.

    Of `given` a class gets what it takes.

    Raises:
        ConfigError: the class does not keep the contract, or an argument is not possible.
    """
    cls = subclass_at(f"{key}.{TARGET}", contract, arguments.get(TARGET))
    own = {name: value for name, value in arguments.items() if name != TARGET}
    taken = {name: v for name, v in given.items() if name in inspect.signature(cls).parameters}
    arguments = checked_arguments(key, cls, own, given)
    try:
        return cls(**taken, **arguments)
    except (RuntimeError, MemoryError, OverflowError) as error:  # no memory for such sizes
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{key} cannot be built: {reason}", "choose smaller sizes") from error
    except ImportError as error:
        raise ConfigError(f"{key} needs a package: {error}", "install it") from error


def checked_arguments(
    key: str, call: Callable[..., Any], own: Mapping[str, Any], given: Iterable[str]
) -> dict[str, Any]:
    """The arguments as the types that a call says they have.

    Raises:
        ConfigError: names the configuration key of one that it does not take, that it lacks, or
            that is out of its bounds.
    """
    every = inspect.signature(call).parameters
    open_end = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in every.values())
    parameters = {name: p for name, p in every.items() if p.kind not in COLLECTING}
    allowed = [name for name in parameters if name not in given]
    unknown = sorted(set(own) - set(allowed))
    if unknown and not (open_end and set(unknown).isdisjoint(given)):
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
    hints = known_arguments(call.__init__ if isinstance(call, type) else call)  # type: ignore[misc]
    return {
        name: checked(f"{key}.{name}", value, hints[name]) if name in hints else value
        for name, value in own.items()
    }
