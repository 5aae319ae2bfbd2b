"""Typed configuration: frozen dataclasses, TOML files, ``--set section.key=value``, environment.

A default is written once, on its dataclass. An unknown key is an error that names the place and
suggests a known key. The resolved configuration goes into the artifact it made.
"""

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from vicinal.errors import InvalidConfigError, did_you_mean
from vicinal.types import JsonObject

T = TypeVar("T")


def _nested(annotation: object) -> type | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and dataclasses.is_dataclass(candidate):
            return candidate
    return None


def _check_keys(cls: type, mapping: Mapping[str, Any], *, where: str, prefix: str = "") -> None:
    hints = get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    for key, value in mapping.items():
        if key not in known:
            hint = did_you_mean(str(key), known)
            raise InvalidConfigError(f"unknown key {prefix + str(key)!r} ({where}){hint}", field=prefix + str(key))
        inner = _nested(hints[key])
        if inner is not None and isinstance(value, Mapping):
            _check_keys(inner, value, where=where, prefix=f"{prefix}{key}.")


def from_mapping(cls: type[T], mapping: Mapping[str, Any], *, where: str) -> T:
    """Builds a configuration dataclass from plain values, strictly.

    Args:
        cls: a dataclass; fields may be dataclasses, Literals, Optionals, tuples, numbers, text.
        mapping: the values by name; numbers and booleans may be given as text.
        where: the place they come from, for messages, such as ``serve.toml`` or ``--set``.

    Raises:
        InvalidConfigError: an unknown key or a value of the wrong type or range.
    """
    _check_keys(cls, mapping, where=where)
    try:
        return msgspec.convert(mapping, cls, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        raise InvalidConfigError(f"wrong value ({where}): {error}") from error


def to_mapping(config: Any) -> JsonObject:
    """Returns a configuration as plain JSON values, to be written into a manifest."""
    mapping: JsonObject = msgspec.to_builtins(config)
    return mapping


def read_toml(path: Path) -> JsonObject:
    """Reads a TOML file.

    Raises:
        InvalidConfigError: the file is missing, unreadable or not TOML; the path is named.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfigError(f"cannot read configuration {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfigError(f"{path} is not TOML: {error}") from error


def with_overrides(mapping: Mapping[str, Any], assignments: Sequence[str], *, where: str = "--set") -> JsonObject:
    """Returns the mapping with ``section.key=value`` assignments laid over it.

    Args:
        mapping: plain nested values; not changed.
        assignments: texts ``section.key=value``; a value is read as TOML where it is TOML, else as text.
        where: the place they come from, for messages.

    Raises:
        InvalidConfigError: an assignment without ``=``, or through a key that is not a section.
    """
    result: JsonObject = msgspec.to_builtins(mapping)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise InvalidConfigError(f"{where} {assignment!r} is not of the form section.key=value")
        *sections, last = key.strip().split(".")
        target = result
        for section in sections:
            inner = target.setdefault(section, {})
            if not isinstance(inner, dict):
                raise InvalidConfigError(f"{where} {assignment!r}: {section!r} is a value, not a section")
            target = inner
        target[last] = _parse(text.strip())
    return result


def _parse(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
