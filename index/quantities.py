"""Reads sizes and times as people write them: ``2GiB``, ``500MB``, ``5ms``."""

import re
from collections.abc import Mapping

from vicinal.errors import InvalidConfigError

_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZES |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3, "min": 6e4, "h": 3.6e6, "d": 8.64e7}
_FORM = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")


def parse_size(text: str) -> int:
    """Returns a size in bytes.

    Raises:
        InvalidConfigError: not a number above 0 with a known unit.
    """
    return int(_parse(text, _SIZES, example="2GiB"))


def parse_milliseconds(text: str) -> float:
    """Returns a time in milliseconds.

    Raises:
        InvalidConfigError: not a number above 0 with a known unit.
    """
    return _parse(text, _TIMES, example="5ms")


def _parse(text: str, units: Mapping[str, float], *, example: str) -> float:
    match = _FORM.fullmatch(text)
    if match is None or match[2].lower() not in units or float(match[1]) <= 0:
        known = ", ".join(unit for unit in units if unit)
        raise InvalidConfigError(f"{text!r} is not a number above 0 with a unit ({known}), such as {example}")
    return float(match[1]) * units[match[2].lower()]
