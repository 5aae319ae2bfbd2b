"""One worker process: its event loop, its signals, and the file that says it is ready."""

import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path

from serving.config import ServeConfig
from vicinal.store import Store

logger = logging.getLogger(__name__)


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


def run_alone(store: Store, config: ServeConfig, *, fixed: str = "", ready_file: Path | None = None) -> None:
    """Serves in this process until SIGTERM or SIGINT.

    Args:
        store: the workspace.
        config: the resolved configuration.
        fixed: serve this snapshot alone; empty follows the alias.
        ready_file: written when the server answers.

    Raises:
        VicinalError: the port or the snapshot cannot be opened.
    """
    install_event_loop()
    asyncio.run(_serve(store, config, fixed=fixed, ready_file=ready_file))


def install_event_loop() -> None:
    """Makes uvloop the event loop where it is installed."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


async def _serve(store: Store, config: ServeConfig, *, fixed: str, ready_file: Path | None) -> None:
    from serving.server import Server  # noqa: PLC0415 - imports FAISS, for which the kernels are chosen first

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = Server(store, config, fixed=fixed)
    port = await server.start()
    host = config.listen.host
    snapshot = server.serving()
    logger.info("serving %s on %s:%d", snapshot or "nothing yet; run: vicinal publish", host, port)
    write_ready_file(ready_file, host=host, port=port, snapshot=snapshot)
    await stop.wait()
    logger.info("stopping; requests in flight have %g s", config.listen.drain_s)
    await server.stop()
