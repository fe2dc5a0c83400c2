"""What a value may be: types with bounds, and one check that names the key.

Fields of the configuration and arguments of classes that it names say their bounds by their
annotations, as `nms_iou: Share`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from unified.errors import ConfigError

Share = Annotated[float, Meta(ge=0, le=1)]
"""Part of a whole, or a probability."""
Part = Annotated[float, Meta(ge=0, lt=1)]
"""Of a whole, of which something is left."""
Positive = Annotated[float, Meta(gt=0)]
Ratio = Annotated[float, Meta(gt=1)]
NonNegative = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
"""At least one."""
Whole = Annotated[int, Meta(ge=0, le=2**31 - 1)]
"""Of things that there may be none of."""
Name = Annotated[str, Meta(min_length=1)]


def checked(key: str, value: Any, hint: Any) -> Any:
    """The value as its type; a whole number becomes a float where one is meant.

    Args:
        key: of the configuration, for the error; empty for the whole of it.
        value: plain containers.
        hint: the type; dataclasses are built, with what is inside of them.

    Raises:
        ConfigError: the value is of another type or outside of its bounds, a key is unknown or
            missing.
    """
    if is_dataclass(hint):
        return _built(key, value, hint)
    options = [option for option in get_args(hint) if option is not NoneType]
    if NoneType in get_args(hint) and len(options) == 1:
        return None if value is None else checked(key, value, options[0])
    if get_origin(hint) in (dict, Mapping):
        parts = _mapping(key, value)
        return {name: checked(f"{key}.{name}", part, options[1]) for name, part in parts.items()}
    if get_origin(hint) is Literal and value not in options:
        known = ", ".join(map(str, options))
        raise ConfigError(f"{key}={value} is unknown", f"use one of: {known}")
    if not _is_finite(value):
        raise ConfigError(f"{key}={value} is no number", "use a finite one")
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        said, _, place = str(error).partition(" - at `$")
        expected = said[:1].lower() + said[1:].replace("`", "")
        for name, plainly in (("array", "list"), ("str", "text"), ("object", "group of keys")):
            expected = re.sub(rf"\b{name}\b", plainly, expected)
        expected = re.sub(r"text matching regex '.*'", "a name without slashes", expected)
        raise ConfigError(f"{key}{place.rstrip('`')}={value} is not possible", expected) from None


def _is_finite(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def known_arguments(call: Any) -> dict[str, Any]:
    """Argument name → type with bounds, of those whose types can be checked."""
    function = getattr(call, "__func__", call)
    names = getattr(function, "__globals__", {})
    checkable = {}
    for name, hint in getattr(function, "__annotations__", {}).items():
        try:
            known = eval(hint, names) if isinstance(hint, str) else hint  # source code, no data
            msgspec.json.Decoder(known)
        except (NameError, TypeError):  # for type checkers only, or a class that no file can hold
            continue
        checkable[name] = known
    return checkable


def _built(key: str, value: Any, hint: Any) -> Any:
    hints = get_type_hints(hint, include_extras=True)
    parts = _mapping(key, value)
    given = {}
    for name, part in parts.items():
        if name not in hints:
            raise ConfigError(f"{_below(key, name)} is unknown", f"use one of: {', '.join(hints)}")
        given[name] = checked(_below(key, name), part, hints[name])
    for field in fields(hint):
        required = field.default is MISSING and field.default_factory is MISSING
        if required and field.name not in given:
            path = _below(key, field.name)
            raise ConfigError(f"{path} is not set", f"add it: +{path}=…")
    return hint(**given)


def _mapping(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"{key}={value} is no group of keys", "see conf/ for what it holds")
    return value


def _below(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
