"""Types of the columns of a text table, worked out from every value, and values of these types."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from vicinal.corpus import MetadataValue

_INT = re.compile(r"^-?(0|[1-9]\d{0,17})$", re.ASCII)
_FLOAT = re.compile(r"^-?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?$", re.ASCII)
_TIME = re.compile(r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[-+]\d\d:?\d\d)?)?$", re.ASCII)
_BOOL = {"true": True, "false": False}


def kinds_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Returns the narrowest type of each column that holds all its values.

    A number with a leading zero, such as a postal code, is text. What is nested is JSON text.

    Args:
        rows: values by column: texts as a CSV file has them, or values as JSON has them.

    Returns:
        bool, int, float, time or string for each column that has a value at all.
    """
    found: dict[str, str] = {}
    for row in rows:
        for name, value in row.items():
            kind = _kind(value)
            if kind is None or found.get(name) in {kind, "string"}:
                continue
            both = {kind, found.get(name, kind)}
            found[name] = kind if len(both) == 1 else "float" if both == {"int", "float"} else "string"
    return found


def _kind(value: Any) -> str | None:
    if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, str):
        return _kind_of_text(value)
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -(2**63) <= value < 2**63 else "string"
    return "float" if isinstance(value, float) else "string"


def _kind_of_text(text: str) -> str:
    if text.lower() in _BOOL:
        return "bool"
    if _INT.match(text):
        return "int"
    if _FLOAT.match(text) and not re.match(r"^-?0\d", text) and math.isfinite(float(text)):
        return "float"
    return "time" if _TIME.match(text) and _time(text) is not None else "string"


def plain(value: Any) -> MetadataValue:
    """Returns a JSON value as a metadata value: what is nested is JSON text, what is not finite is None."""
    kind = None if isinstance(value, str) else _kind(value)
    if kind is None:
        return _whole(value) if isinstance(value, str) else None
    return typed(value, kind)


def typed(value: Any, kind: str) -> MetadataValue:
    """Returns a value in the type of its column; empty and not finite is None.

    Args:
        value: a text, or a value as JSON has it.
        kind: the column's type, from ``kinds_of``.
    """
    if _kind(value) is None:
        return None
    if kind == "string":
        return _whole(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    if kind == "bool":
        return value if isinstance(value, bool) else _BOOL[value.lower()]
    if kind == "time":
        return _time(value)
    return int(value) if kind == "int" else float(value)


def _whole(text: str) -> str:
    """Returns a text that is UTF-8: JSON may hold half characters."""
    return text.encode("utf-8", "replace").decode()


def _time(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
