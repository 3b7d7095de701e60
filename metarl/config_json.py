"""Frozen config dataclasses to JSON and back, strictly."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from metarl.errors import ConfigError, closest

Config = TypeVar("Config")


def config_to_json(config: Any) -> Any:
    """Turn a dataclass into what JSON keeps: dicts, lists, numbers, strings, booleans and None.

    Raises:
        TypeError: a field holds something else.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: config_to_json(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): config_to_json(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [config_to_json(item) for item in config]
    if isinstance(config, Path):
        return str(config)
    if config is None or isinstance(config, bool | int | float | str):
        return config
    raise TypeError(f"a config holds a {type(config).__name__}, which JSON does not keep.")


def config_from_json(kind: type[Config], value: Any, where: str = "config") -> Config:
    """Build a dataclass from JSON: every key must be a field, every value of its type.

    Fields that are missing take their defaults, and keys that a dataclass has in its `RENAMED` stand for the new name,
    so that a config of an older version still loads.

    Args:
        kind: the dataclass.
        value: what `config_to_json` gave.
        where: how errors name it.

    Raises:
        ConfigError: an unknown key, a missing one without default, or a value of the wrong type.
    """
    return _decode(kind, value, where)


def _decode(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _decode_union(kind, value, where)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
        raise ConfigError(f"{where} is {value!r}; available: {', '.join(map(repr, arguments))}.")
    if origin is tuple and isinstance(value, list):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            arguments = (arguments[0],) * len(value)
        if len(value) != len(arguments):
            raise ConfigError(f"{where} has {len(value)} entries, expected {len(arguments)}.")
        return tuple(_decode(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(arguments, value, strict=True)))
    if origin is list and isinstance(value, list):
        return [_decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    raise ConfigError(f"{where} is {value!r}, expected {getattr(kind, '__name__', kind)}.")


def _decode_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is {value!r}, expected the fields of {kind.__name__}.")
    hints, renamed = get_type_hints(kind), getattr(kind, "RENAMED", {})
    value = {renamed.get(key, key): item for key, item in value.items()}
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for key in value:
        if key not in fields:
            raise ConfigError(
                f"{where} has an unknown key {key!r}.{closest(key, fields)} Available: {', '.join(fields)}."
            )
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in value:
            raise ConfigError(f"{where} lacks the key {name!r}.")
    return kind(**{key: _decode(hints[key], item, f"{where}.{key}") for key, item in value.items()})


def _decode_union(kind: Any, value: Any, where: str) -> Any:
    options = get_args(kind)
    if value is None and type(None) in options:
        return None
    # An integer stays one where the union takes both numbers.
    exact = [option for option in options if type(value) is option]
    refusals = []
    for option in exact or [option for option in options if option is not type(None)]:
        try:
            return _decode(option, value, where)
        except ConfigError as error:
            refusals.append(error)
    raise refusals[0] if len(refusals) == 1 else ConfigError(f"{where} is {value!r}, expected {kind}.")
