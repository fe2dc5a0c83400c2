"""The words of a command line, before Hydra sees them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString
from hydra.errors import HydraException, OverrideParseException

from unified.errors import ConfigError

PATHS = re.compile(
    r"source|out|ckpt|resume|weights|names|\+?data\.(folders\.\w+\.)?(root|images)", re.ASCII
)
"""Keys whose values are taken as they stand."""
SEVERAL = ("task", "data")
"""Groups of which several choices may be joined."""


def apart(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Hydra's overrides, and its options with their values."""
    overrides = [a for a in arguments if a[:1] == "~" or ("=" in a and a[:1] != "-")]
    return overrides, [a for a in arguments if a not in overrides]


def quoted(override: str, sweeping: bool = False) -> str:
    """A path as Hydra takes it, whatever its characters; `~` is the home folder.

    In a sweep a comma stands between values.
    """
    key, _, value = override.partition("=")
    if not PATHS.fullmatch(key) or value in ("", "null") or value[0] in "'\"":
        return override
    if sweeping and "," in value:
        return override
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", os.path.expanduser(value))
    escaped = escaped.replace("${", "\\${")
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f"{key}='{escaped}{escaped[len(escaped) - trailing :]}'"


def check_choices(arguments: Sequence[str], more: bool = False) -> None:
    """Name an unknown choice of a group and the known ones, which Hydra does not for lists.

    Args:
        arguments: overrides.
        more: there may be other choices than ours, in a folder of the user's.

    Raises:
        ConfigError: no file of that group has the name.
    """
    more = more or any(argument.startswith("hydra.searchpath") for argument in arguments)
    try:
        overrides = OverridesParser.create().parse_overrides(list(arguments))
    except OverrideParseException:
        return  # Hydra reports it
    for override in overrides:
        group = override.key_or_group
        folder = files("conf") / group
        ours = folder.is_dir()
        if (ours or group.startswith("hydra/")) and not override.is_delete():
            names = (f.name for f in folder.iterdir()) if ours else ()
            known = sorted(name.removesuffix(".yaml") for name in names)
            for value in _chosen(override):
                _check_choice(group, value, known, more or not ours)


def _chosen(override: Override) -> list[Any]:
    """The value, or those of a sweep over choices."""
    value = override.value()
    if isinstance(value, ChoiceSweep):
        return [_unquoted(v) for v in value.list]
    return [] if override.is_sweep_override() else [value]


def _unquoted(value: Any) -> Any:
    """As Hydra's `Override.value` gives it outside of a sweep."""
    if isinstance(value, list):
        return [_unquoted(v) for v in value]
    return value.text if isinstance(value, QuotedString) else value


def _check_choice(group: str, value: Any, known: Sequence[str], more: bool) -> None:
    one_of = f"use one of: {', '.join(known)}" if known else f"leave {group} out"
    if value is None or value == []:
        shown = "null" if value is None else "[]"
        left = f"leave {group} out, or " * (bool(known) and group != "ablation")
        raise ConfigError(f"{group}={shown} selects none", left + one_of)
    names = value if isinstance(value, list) else [value]
    if isinstance(value, list) and group not in SEVERAL:
        every = ",".join(map(str, names))
        each = f"; for a run of each: unified train -m {group}={every}"
        raise ConfigError(
            f"{group}=[{every}] names several, of which one is possible",
            one_of + each * (bool(known) and group != "ablation"),
        )
    for name in names:
        no_name = name is None or isinstance(name, list | dict)
        if no_name or (str(name) not in known and not more):
            shown = "null" if name is None else name
            raise ConfigError(f"{group}={shown} is unknown", one_of)


def of_saved(overrides: Sequence[str]) -> list[str]:
    """The same, where a checkpoint or a run says which tasks there are.

    Hydra knows those of the defaults alone: a key of another one is added for it to be taken.

    Raises:
        ConfigError: something of a task is deleted.
    """
    keys = [override.lstrip("+").partition("=")[::2] for override in overrides]
    if not any(key in ("ckpt", "resume") and value != "null" for key, value in keys):
        return list(overrides)
    for override in overrides:
        if override.startswith("~task."):
            raise ConfigError(
                f"{override} cannot change a model that exists already",
                "its tasks stay, and all of their arguments: give another value",
            )
    return [f"++{o}" if o.startswith("task.") else o for o in overrides]


def explained(error: HydraException) -> ConfigError:
    """What Hydra says of an override that cannot be, as one message."""
    said = str(error).strip().replace("++task.", "task.")  # the signs are `of_saved`'s
    first, *others = said.splitlines() or ["the command line cannot be read"]
    fix = next((line for line in others if line.startswith("To append")), "look at the override")
    if isinstance(error, OverrideParseException):
        first = f"{error.override.removeprefix('++')}: {first}"
    elif key := re.search(r"'task\.(\w+)\.(\w+)", first):
        task, argument = key.groups()
        fix = f"--help lists the arguments of {task}; {argument} is none of them"
        if f"Key '{task}' is not in" in str(error.__cause__):
            fix = f"no task {task} takes part: add it, task=[…,{task}], or leave this out"
    if "already at" in first:
        fix = "leave out the +"
    if "Ambiguous" in first:
        fix = "for a run of each value add -m; a value with commas is quoted"
    return ConfigError(first, fix)
