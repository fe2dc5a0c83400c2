"""`unified COMMAND --help`: every key, explained by what documents the code."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib.resources import files
from typing import Any, get_args, get_type_hints

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from unified.classes import class_at
from unified.errors import ConfigError
from unified.schema import Config

GROUPS = {
    "train": ("task", "trunk", "block", "implicit", "data", "augment", "optim", "weighting",
              "trainer", "logger"),
    "eval": ("data", "task", "trainer"),
    "predict": ("task",),
    "info": ("task", "trunk", "block", "implicit", "data"),
    "import": ("trunk", "task"),
    "ablate": ("ablation", "task", "trunk", "block", "implicit", "data", "augment", "optim",
               "weighting", "trainer"),
}  # fmt: skip
"""Command → the groups whose keys mean something to it."""
COLUMN = 34
"""Where explanations begin."""


def print_help(
    command: str, about: str, used_by: Mapping[str, Sequence[str]], words: list[str]
) -> None:
    """Print a command's keys, with their values under the given overrides.

    Args:
        command: its name.
        about: what it does.
        used_by: key → the commands that it means something to; other keys mean something to all.
        words: overrides, whose values and groups are shown.

    Raises:
        ConfigError: an override is not possible.
    """
    try:
        with initialize_config_module("conf", version_base="1.3"):
            config: Any = OmegaConf.to_container(compose("config", words))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(str(error).splitlines()[0], "look at the override") from error
    print(f"unified {command} [key=value …] [group=choice …]\n\n{about}")
    print("\ngroups: each choice is a file with values for the keys below")
    for folder, choices in _choices():
        if folder in (
            *GROUPS[command],
            *(("experiment",) if command in ("train", "info", "ablate") else ()),
        ):
            _print_row(folder, choices)
    print("\nkeys, their values, and what they are")
    own = _documented(Config)
    for key, value in config.items():
        told = key in own and command in used_by.get(key, (command,))
        if told and key != "command" and not isinstance(value, dict):
            _print_row(f"{key}={_shown(value)}", own[key])
    for group in GROUPS[command]:
        if config.get(group):
            print()
            _print_row(group, own[group])
            hint = get_type_hints(Config)[group]
            for row in _rows(group, config[group], hint):
                _print_row(*row)


def _choices() -> Iterator[tuple[str, str]]:
    for folder in sorted(files("conf").iterdir(), key=lambda folder: folder.name):
        if folder.is_dir() and not folder.name.startswith("_"):
            names = sorted(file.name.removesuffix(".yaml") for file in folder.iterdir())
            yield folder.name, ", ".join(name for name in names if not name.startswith("_"))


def _rows(key: str, value: Any, hint: Any) -> Iterator[tuple[str, str]]:
    """(key=value, explanation) of a group and of what is inside of it."""
    if not isinstance(value, dict):
        yield f"{key}={_shown(value)}", ""
        return
    target, kind = value.get("_target_"), _dataclass_of(hint)
    if target:
        explained = _documented(class_at(key, target))
        yield f"{key}._target_={target}", ""
    else:
        explained = _documented(kind) if kind else {}
    hints = get_type_hints(kind) if kind else {}
    for name, part in value.items():
        if name == "_target_":
            continue
        inner = hints.get(name, _part_of(hint))
        if isinstance(part, dict) and part and name not in explained:
            yield from _rows(f"{key}.{name}", part, inner)
        elif isinstance(part, dict) and part:
            yield f"{key}.{name}", explained[name]
            yield from _rows(f"{key}.{name}", part, inner)
        else:
            yield f"{key}.{name}={_shown(part)}", explained.get(name, "")


def _dataclass_of(hint: Any) -> Any:
    """The dataclass that a hint names, beside None."""
    options = [hint, *get_args(hint)]
    return next((o for o in options if is_dataclass(o) and get_args(hint)[:1] != (str,)), None)


def _part_of(hint: Any) -> Any:
    """Of `dict[str, X]`, X."""
    arguments = get_args(hint)
    return arguments[1] if len(arguments) == 2 and arguments[0] is str else None


def _documented(thing: Any) -> dict[str, str]:
    """Name → explanation, from the sections `Args` and `Attributes` of docstrings."""
    texts = [inspect.getdoc(thing) or ""]
    if hasattr(thing, "of_task"):
        texts.append(inspect.getdoc(thing.of_task) or "")
    found: dict[str, str] = {}
    for text in texts:
        for section in re.findall(r"^(?:Args|Attributes):\n((?:    .*\n?|\n)+)", text, re.M):
            entries = re.split(r"^    (?=\S)", section, flags=re.M)
            for entry in entries[1:]:
                names, _, said = entry.partition(": ")
                said = " ".join(said.split("\n\n")[0].split())
                found |= dict.fromkeys(names.split(", "), said)
    if is_dataclass(thing):
        found = {f.name: found.get(f.name, "") for f in fields(thing)}
    return found


def _shown(value: Any) -> str:
    """As a command line takes it."""
    if isinstance(value, (list, dict)):
        return str(value).replace(" ", "").replace("'", "").replace("None", "null")
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _print_row(left: str, right: str) -> None:
    width = max(shutil.get_terminal_size().columns, 60)
    lines = textwrap.wrap(right, width - COLUMN - 2) or [""]
    if len(left) > COLUMN - 2:
        print(f"  {left}")
        left = ""
        if lines == [""]:
            return
    for line in lines:
        print(f"  {left:{COLUMN}}{line}".rstrip())
        left = ""
