"""One worker process: its event loop, its signals, and the word that it is ready."""

import asyncio
import gc
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from serving.config import ServeConfig
from serving.reload import Source, reload
from vicinal.store import Store

if TYPE_CHECKING:
    from serving.place import Place
    from serving.server import Server

logger = logging.getLogger(__name__)
Announce = Callable[[int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duty:
    """What one worker is to do."""

    store: Store
    """The workspace."""
    config: ServeConfig
    """The resolved configuration, with the port."""
    fixed: str
    """Serve this snapshot alone; empty follows the alias."""
    announce: Announce
    """Told the port and the snapshot once it answers."""
    place: "Place | None" = None
    """Its place among the workers; None when it is alone."""
    life_fd: int | None = None
    """End of a pipe that closes when the supervisor is gone; None when there is none."""
    source: Source | None = None
    """Reads the configuration anew on SIGHUP; None: there is no file of it, and SIGHUP ends the server."""


def set_up_logging(level: str) -> None:
    """Writes the log to standard error, one line a message.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s",
        force=True,
    )
    # It tells of every instruction set that it tries.
    logging.getLogger("faiss").setLevel(logging.WARNING)


def write_ready_file(path: Path | None, *, host: str, port: int, snapshot: str) -> None:
    """Says by rename that the server answers.

    Args:
        path: where; None says nothing.
        host: address it listens on.
        port: port it listens on.
        snapshot: what it serves, empty for nothing yet.
    """
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    text = json.dumps({"address": f"{host}:{port}", "pid": os.getpid(), "snapshot": snapshot})
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


def run_alone(
    store: Store, config: ServeConfig, *, fixed: str = "", ready_file: Path | None = None, source: Source | None = None
) -> None:
    """Serves in this process until SIGTERM or SIGINT.

    Args:
        store: the workspace.
        config: the resolved configuration.
        fixed: serve this snapshot alone; empty follows the alias.
        ready_file: written when the server answers.
        source: reads the configuration anew on SIGHUP.

    Raises:
        VicinalError: the port or the snapshot cannot be opened.
    """
    host = config.listen.host

    def announce(port: int, snapshot: str) -> None:
        logger.info("serving %s on %s:%d", snapshot or "nothing yet; run: vicinal publish", host, port)
        write_ready_file(ready_file, host=host, port=port, snapshot=snapshot)

    run_worker(Duty(store=store, config=config, fixed=fixed, announce=announce, source=source))


def run_worker(duty: Duty) -> None:
    """Serves in this process until it is told to stop.

    Args:
        duty: what to do.

    Raises:
        VicinalError: the port or the snapshot cannot be opened.
    """
    from serving.threads import limit_threads  # noqa: PLC0415 - imports NumPy

    limit_threads(duty.place.board.worker_count if duty.place else 1)
    install_event_loop()
    asyncio.run(_serve(duty))


def core_count() -> int:
    """Returns the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def install_event_loop() -> None:
    """Makes uvloop the event loop where it is installed."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


async def _serve(duty: Duty) -> None:
    # Seconds of imports, after the checks of the configuration.
    from serving.access_log import AccessLog  # noqa: PLC0415 - as said above
    from serving.metrics import start_metrics  # noqa: PLC0415 - as said above
    from serving.security import make_gatekeeper, make_tls  # noqa: PLC0415 - as said above
    from serving.server import Server  # noqa: PLC0415 - as said above

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if duty.source is not None:
        loop.add_signal_handler(signal.SIGHUP, reload, duty.config, duty.source)
    if duty.life_fd is not None:
        loop.add_reader(duty.life_fd, stop.set)
    server = Server(
        duty.store,
        duty.config,
        fixed=duty.fixed,
        place=duty.place,
        gatekeeper=make_gatekeeper(duty.config),
        observers=(AccessLog(),) if duty.config.observe.access_log else (),
    )
    observe = duty.config.observe
    if duty.place is None and observe.metrics_port >= 0:
        start_metrics(server.place.board, duty.store, host=observe.metrics_host, port=observe.metrics_port)
    port = await server.start(reuse_port=duty.place is not None, tls=make_tls(duty.config.tls))
    _enter(server)
    duty.announce(port, server.serving())
    # What is there now stays: no collection walks through it again while calls wait.
    gc.collect()
    gc.freeze()
    await stop.wait()
    if duty.life_fd is not None:
        loop.remove_reader(duty.life_fd)
    logger.info("stopping; requests in flight have %g s", duty.config.listen.drain_s)
    server.place.slab["live"] = 0
    await server.stop()


def _enter(server: "Server") -> None:
    slab = server.place.slab
    slab["start_time_s"] = time.time()
    slab.add("start_count")
    slab["live"] = 1
