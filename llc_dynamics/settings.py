"""Frozen dataclasses from and to plain mappings (TOML, JSON), where an unknown or mistyped key is an error."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from llc_dynamics.errors import ConfigError

T = TypeVar("T")
# The only numbers that are written as text: JSON has no infinity.
_INFINITIES = {"inf": math.inf, "-inf": -math.inf}


def nearest(name: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' with the nearest known name, or the list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"


def plain_number(value: Any) -> Any:
    """Python's own number for one of NumPy or torch (also an array or tensor without dimensions); else the value."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def with_plain_numbers(settings: Any) -> None:
    """For `__post_init__`: the fields of a dataclass hold Python's own numbers, whatever kind was given."""
    for field in dataclasses.fields(settings):
        if field.init:
            value = getattr(settings, field.name)
            plain = tuple(map(plain_number, value)) if type(value) is tuple else plain_number(value)
            object.__setattr__(settings, field.name, plain)


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str = "") -> T:
    """Build the dataclass `cls` from `mapping`, recursively.

    Raises `ConfigError` for an unknown key (naming the nearest known one), a missing one, or a value of another type.
    `where` is put in front of the key in messages, for example the name of the file. A class whose table is not its
    fields one by one has a class method `from_mapping(mapping, where)` and a method `to_mapping()` of its own.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{where or cls.__name__}: expected a table of settings, got {mapping!r}")
    own = getattr(cls, "from_mapping", None)
    return from_fields(cls, mapping, where) if own is None else typing.cast(T, own(mapping, where))


def from_fields(cls: type[T], mapping: Mapping[str, Any], where: str = "") -> T:
    """`from_mapping` field by field, also where a class has a `from_mapping` of its own."""
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls)) if field.init}
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in mapping.items():
        if key not in fields:
            raise ConfigError(f"{_path(where, key)}: unknown setting; {nearest(str(key), fields)}")
        values[key] = converted(hints[key], value, _path(where, key))
    for name, field in fields.items():
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in values and not has_default:
            raise ConfigError(f"{_path(where, name)}: this setting is required and was not given")
    return cls(**values)


@contextmanager
def errors_in(where: str) -> Iterator[None]:
    """Inside, a `ConfigError` begins with `where`."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None


def to_mapping(settings: Any) -> dict[str, Any]:
    """The inverse of `from_mapping`, of JSON types only (infinity becomes the string "inf")."""
    return typing.cast(dict[str, Any], _plain(settings))


def without_none(value: Any) -> Any:
    """`value` as TOML can hold it, which has no other way to say None than to leave it out."""
    if isinstance(value, Mapping):
        return {str(key): without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [without_none(item) for item in value if item is not None]
    return value


def load_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file; a missing or malformed one is a `ConfigError` that names it."""
    import tomllib

    path = Path(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read as a config file ({error.strerror})") from None
    except ValueError as error:  # bad TOML, no UTF-8, a number of thousands of digits
        raise ConfigError(f"{path}: not valid TOML ({error})") from None
    except RecursionError:
        raise ConfigError(f"{path}: not a config file (brackets in brackets, hundreds deep)") from None


def _path(where: str, key: str) -> str:
    return f"{where}: {key}" if where and not where.endswith("]") else f"{where}{key}"


def converted(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint`; `ConfigError`, beginning with `where`, if it is of another."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    value = plain_number(value)
    if origin in (typing.Union, types.UnionType):
        if type(None) in arguments and (value is None or (value == "none" and str not in arguments)):
            return None  # TOML has no other way to say it
        problems = []
        for option in arguments:
            if option is not type(None):
                try:
                    return converted(option, value, where)
                except ConfigError as error:
                    problems.append(error)
        raise problems[0]
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(f"{where}: {value!r} is not one of them; {nearest(str(value), map(str, arguments))}")
        return value
    if origin is Mapping:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise ConfigError(f"{where}: expected a table, got {value!r}")
        return {key: converted(arguments[1], item, _path(where, key)) for key, item in value.items()}
    if origin in (tuple, list):
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, got {value!r}")
        return origin(converted(arguments[0], item, where) for item in value)
    if dataclasses.is_dataclass(hint):
        return (
            value if isinstance(value, typing.cast(type, hint)) else from_mapping(typing.cast(type, hint), value, where)
        )
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value) if not isinstance(value, str) else _INFINITIES[value]
        except (KeyError, OverflowError):
            raise ConfigError(f"{where}: expected a number, got {value!r}") from None
        if math.isnan(number):
            raise ConfigError(f"{where}: expected a number, got {value!r}")
        return number
    if hint is Any or (isinstance(hint, type) and isinstance(value, hint) and not (hint is int and value is True)):
        if hint is int and (isinstance(value, bool) or not -(2**63) <= value < 2**63):
            raise ConfigError(f"{where}: expected int of at most 64 bits, got {value!r}")
        return value
    raise ConfigError(f"{where}: expected {getattr(hint, '__name__', hint)}, got {value!r}")


def _plain(value: Any) -> Any:
    value = plain_number(value)
    if dataclasses.is_dataclass(value):
        own = getattr(value, "to_mapping", None)
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _plain(fields if own is None else own())
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value
