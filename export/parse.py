# SPDX-License-Identifier: Apache-2.0
"""Turns plain mappings (from YAML) into dataclasses, strictly.

Every error names the key's path, what was expected and what was got; an
unknown key also gets the nearest known one.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """The config cannot be used; the message says where and why."""


def to_dataclass(cls: type[T], data: Any, path: str = "") -> T:
    """Builds a dataclass from a mapping.

    Field types may be `str`, `int`, `float`, `bool`, `Literal[...]`,
    dataclasses, `tuple[X, ...]` (a list in YAML), `dict[str, X]` and unions of
    these with None. A field without a default is required.

    Args:
        cls: The dataclass.
        data: What YAML gave.
        path: Where `data` stands in the config, for messages.

    Raises:
        ConfigError: Something is missing, unknown or of the wrong type, or the
            dataclass's own `__post_init__` refused the values.
    """
    if not isinstance(data, Mapping):
        raise _wrong(path, "a mapping of keys to values", data)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise ConfigError(_unknown(str(key), fields, path))
    hints = typing.get_type_hints(cls)
    values = {}
    for name, field in fields.items():
        where = join(path, name)
        if name in data:
            values[name] = _convert(hints[name], data[name], where)
        elif (
            field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ):
            raise ConfigError(
                f"{where}: required, but missing; expected "
                f"{_describe(hints[name])}"
            )
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path or 'config'}: {error}") from error


def join(path: str, key: str) -> str:
    """`a.b` + `c` -> `a.b.c`."""
    return f"{path}.{key}" if path else key


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(hint, value, path)
    if origin is typing.Literal:
        allowed = typing.get_args(hint)
        if value not in allowed or isinstance(value, bool):
            near = _nearest(value, allowed)
            raise ConfigError(
                f"{path}: expected {_describe(hint)}, got {value!r}{near}"
            )
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong(path, _describe(hint), value)
        item = typing.get_args(hint)[0]
        return tuple(
            _convert(item, v, f"{path}[{i}]") for i, v in enumerate(value)
        )
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _wrong(path, _describe(hint), value)
        item = typing.get_args(hint)[1]
        return {
            str(k): _convert(item, v, join(path, str(k)))
            for k, v in value.items()
        }
    if dataclasses.is_dataclass(hint):
        return to_dataclass(typing.cast(type, hint), value, path)
    if hint is Any:
        return value
    if hint is float and type(value) is int:
        return float(value)
    # `type`, not `isinstance`: True is not a number here.
    if type(value) is not hint:
        raise _wrong(path, _describe(hint), value)
    return value


def _convert_union(hint: Any, value: Any, path: str) -> Any:
    options = [a for a in typing.get_args(hint) if a is not type(None)]
    if value is None:
        if len(options) == len(typing.get_args(hint)):
            raise _wrong(path, _describe(hint), value)
        return None
    if len(options) == 1:
        return _convert(options[0], value, path)
    # A mapping can only mean the dataclass of the union: its errors are the
    # ones to report.
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, Mapping):
            return _convert(option, value, path)
    for option in options:
        if not dataclasses.is_dataclass(option):
            try:
                return _convert(option, value, path)
            except ConfigError:
                continue
    raise _wrong(path, _describe(hint), value)


def _describe(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [a for a in typing.get_args(hint) if a is not type(None)]
        return " or ".join(_describe(o) for o in options)
    if origin is typing.Literal:
        return "one of " + ", ".join(str(a) for a in typing.get_args(hint))
    if origin is tuple:
        return f"a list, each {_describe(typing.get_args(hint)[0])}"
    if origin is dict or dataclasses.is_dataclass(hint):
        return "a mapping of keys to values"
    return {
        str: "a string",
        int: "an integer",
        float: "a number",
        bool: "true or false",
    }.get(hint, str(hint))


def _wrong(path: str, expected: str, value: Any) -> ConfigError:
    got = "nothing" if value is None else f"{value!r} ({type(value).__name__})"
    return ConfigError(f"{path or 'config'}: expected {expected}, got {got}")


def _unknown(key: str, known: Iterable[str], path: str) -> str:
    known = list(known)
    near = _nearest(key, known)
    return (
        f"{join(path, key)}: no such key{near}; known here: {', '.join(known)}"
    )


def _nearest(value: Any, known: Iterable[Any]) -> str:
    close = difflib.get_close_matches(str(value), [str(k) for k in known], 1)
    return f"; did you mean {close[0]!r}?" if close else ""
