"""Plugins by file name: a module of a family package is a plugin, its name is the file's name.

Listing a family imports nothing; a module is imported when it is asked for. A family says which
attribute every plugin must have.
"""

import importlib
import importlib.util
import pkgutil
from pathlib import Path
from types import ModuleType

from vicinal.errors import InvalidArgumentError, did_you_mean


def names(family: str) -> tuple[str, ...]:
    """Returns the sorted names of the plugins of a family.

    Args:
        family: dotted name of the package, such as ``index.kinds``.
    """
    spec = importlib.util.find_spec(family)
    assert spec is not None, family
    assert spec.submodule_search_locations is not None, family
    found = pkgutil.iter_modules([str(Path(place)) for place in spec.submodule_search_locations])
    return tuple(sorted(info.name for info in found if not info.name.startswith("_")))


def load(family: str, name: str) -> ModuleType:
    """Imports one plugin.

    Args:
        family: dotted name of the package, such as ``index.kinds``.
        name: file name without ``.py``; dashes are taken as underscores.

    Raises:
        InvalidArgumentError: no such plugin; the message suggests one.
    """
    wanted = name.replace("-", "_")
    known = names(family)
    if wanted not in known:
        what = family.rsplit(".", 1)[-1].rstrip("s")
        raise InvalidArgumentError(f"unknown {what} {name!r}{did_you_mean(wanted, known)}", field=what)
    return importlib.import_module(f"{family}.{wanted}")
