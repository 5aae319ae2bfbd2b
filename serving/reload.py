"""Takes a changed configuration into a running server, where that can be: SIGHUP reads the file again.

Everybody in a worker holds the same sections of the configuration. What can change is changed in them;
the rest is said in the log and waits for the next start.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from serving.config import ServeConfig
from vicinal.errors import VicinalError

logger = logging.getLogger(__name__)
Source = Callable[[], ServeConfig]
"""Reads the configuration anew."""
_NEEDS_RESTART = frozenset({"limits.max_message_mib", "limits.embedding_cache_count", "limits.pinned_generations"})
_LIVE = frozenset({"listen.drain_s", "observe.log_level", "observe.probe_interval_s", "observe.probe_queries"})


def is_live(key: str) -> bool:
    """Returns whether a running server can change a setting.

    Args:
        key: such as ``limits.max_in_flight``.
    """
    return key in _LIVE or (key.startswith("limits.") and key not in _NEEDS_RESTART)


def reload(config: ServeConfig, source: Source) -> bool:
    """Reads the configuration again, and changes what can be changed.

    What is wrong with it is logged, and then nothing changes.

    Args:
        config: the configuration in use; its live settings are changed in place.
        source: reads it anew.

    Returns:
        Whether the new configuration is right.
    """
    try:
        new = source()
    except VicinalError as error:
        logger.error("the configuration stays as it was: %s", error)  # noqa: TRY400 - said
        return False
    changed, waiting = [], []
    for key, section, name, value in _differences(config, new):
        if is_live(key):
            # Frozen for everybody else: the sections are read everywhere and written here alone.
            object.__setattr__(section, name, value)
            changed.append(f"{key} = {value!r}")
        else:
            waiting.append(key)
    if waiting:
        logger.warning("changed, but in use only after a restart: %s", ", ".join(waiting))
    logger.info("the configuration was read again; changed: %s", ", ".join(changed) or "nothing")
    logging.getLogger().setLevel(config.observe.log_level.upper())
    return True


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, Any, str, Any]]:
    for field in fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        key = prefix + field.name
        if is_dataclass(before):
            yield from _differences(before, after, key + ".")
        # The port that was free stays what it is.
        elif before != after and not (key == "listen.port" and after == 0):
            yield key, old, field.name, after
