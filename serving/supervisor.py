"""Several workers on one port: started together, started again when one dies, drained on SIGTERM.

The workers are forked, so that they share what is imported, and each opens the memory-mapped
snapshot for itself, so that they share its pages. The supervisor does nothing but wait for signals.
"""

import contextlib
import gc
import importlib
import json
import logging
import os
import select
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from index.snapshot import ENCODER_DIRECTORY
from serving.board import Board
from serving.config import ServeConfig
from serving.handover import Handover
from serving.place import Place
from serving.port import PortGuard
from serving.reload import Source, reload
from serving.worker import Announce, Duty, run_worker, write_ready_file
from vicinal.errors import InternalError, UnavailableError, VicinalError, by_reason
from vicinal.store import Store

logger = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP)
_LOOK_S = 0.2
_QUICK_DEATH_S = 5.0
_LONGEST_PAUSE_S = 10.0
_KILL_AFTER_S = 5.0
_METRICS = -1


@dataclass(slots=True, kw_only=True)
class _Worker:
    """One worker, as the supervisor sees it."""

    number: int
    """From 0; -1 is the process that serves metrics."""
    pid: int = 0
    ready_fd: int = -1
    heard: bytes = b""
    snapshot: str | None = None
    started_s: float = 0.0
    quick_deaths: int = 0
    again_s: float = 0.0


class Supervisor:
    """Runs the workers of one port.

    Args:
        store: the workspace.
        config: the resolved configuration.
        worker_count: workers to run, at least 1.
        fixed: serve this snapshot alone; empty follows the alias.
        ready_file: written when every worker answers.
        source: reads the configuration anew on SIGHUP; None: SIGHUP ends the server.
    """

    def __init__(
        self,
        store: Store,
        config: ServeConfig,
        *,
        worker_count: int,
        fixed: str = "",
        ready_file: Path | None = None,
        source: Source | None = None,
    ) -> None:
        self._store = store
        self._config = config
        self._fixed = fixed
        self._source = source
        self._ready_file = ready_file
        self._workers = [_Worker(number=number) for number in range(worker_count)]
        self._worker_count = worker_count
        if config.observe.metrics_port >= 0:
            self._workers.append(_Worker(number=_METRICS))
        self._life: tuple[int, int] = (-1, -1)
        self._announced = False

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT.

        Raises:
            VicinalError: the port is taken, or no worker can start.
        """
        from serving.server import method_names  # noqa: PLC0415 - imported once, before the workers are forked

        listen = self._config.listen
        with PortGuard(listen.host, listen.port) as guard:
            self._config = replace(self._config, listen=replace(listen, port=guard.port))
            self._board = Board(self._worker_count, method_names())
            self._handover = Handover(self._worker_count) if self._worker_count > 1 else None
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            self._life = os.pipe()
            self._import_shared()
            gc.freeze()
            try:
                self._supervise()
            finally:
                self._stop()
                if self._handover is not None:
                    self._handover.close()
                os.close(self._life[1])
                os.close(self._life[0])
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _import_shared(self) -> None:
        # What is imported before the fork is shared memory, and a worker that is started again starts at once.
        from serving.server import import_services  # noqa: PLC0415 - imported once, before the workers are forked
        from serving.threads import import_before_fork  # noqa: PLC0415 - imports NumPy

        import_before_fork(self._worker_count)
        import_services()
        with contextlib.suppress(VicinalError):
            version = self._fixed or self._store.active().snapshot
            if (self._store.path("snapshots", version) / ENCODER_DIRECTORY).is_dir():
                importlib.import_module("vicinal.encoder")

    def _supervise(self) -> None:
        for worker in self._workers:
            self._start(worker)
        while True:
            found = signal.sigtimedwait(_SIGNALS, _LOOK_S)
            if found is not None and found.si_signo == signal.SIGHUP and self._source is not None:
                self._reload(self._source)
            elif found is not None and found.si_signo != signal.SIGCHLD:
                logger.info("stopping %d workers", len(self._workers))
                return
            self._listen()
            self._reap()
            for worker in self._workers:
                if not worker.pid and time.monotonic() >= worker.again_s:
                    self._start(worker)
            self._announce()

    def _reload(self, source: Source) -> None:
        # Workers that are started later inherit what is changed here.
        if not reload(self._config, source):
            return
        for worker in self._workers:
            if worker.pid and worker.number != _METRICS and worker.snapshot is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGHUP)

    def _start(self, worker: _Worker) -> None:
        ready, ready_end = os.pipe()
        worker.started_s, worker.heard, worker.snapshot = time.monotonic(), b"", None
        pid = os.fork()
        if not pid:
            os.close(ready)
            self._be_worker(worker.number, ready_end)
        os.close(ready_end)
        worker.pid, worker.ready_fd = pid, ready

    def _be_worker(self, number: int, ready_end: int) -> None:
        code = 1
        try:
            os.close(self._life[1])
            # Until the worker's own handler is there, and for good where there is none.
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

            def announce(_port: int, snapshot: str) -> None:
                _say(ready_end, {"snapshot": snapshot})

            if number == _METRICS:
                self._be_metrics(announce)
            run_worker(
                Duty(
                    store=self._store,
                    config=self._config,
                    fixed=self._fixed,
                    announce=announce,
                    place=Place(board=self._board, number=number, life_fd=self._life[0], handover=self._handover),
                    life_fd=self._life[0],
                    source=self._source,
                )
            )
            code = 0
        except VicinalError as error:
            _say(ready_end, {"reason": error.reason, "message": error.message})
        except BaseException:
            logger.exception("worker %d failed", number)
        finally:
            # The supervisor's own clean-up is not the worker's.
            logging.shutdown()
            sys.stderr.flush()
            os._exit(code)

    def _be_metrics(self, announce: Announce) -> NoReturn:
        from serving.metrics import start_metrics  # noqa: PLC0415 - the workers do not need it

        observe = self._config.observe
        port = start_metrics(self._board, self._store, host=observe.metrics_host, port=observe.metrics_port)
        announce(port, "")
        # The pipe ends with the supervisor.
        os.read(self._life[0], 1)
        os._exit(0)

    def _listen(self) -> None:
        by_fd = {worker.ready_fd: worker for worker in self._workers if worker.ready_fd >= 0}
        for ready in select.select(list(by_fd), [], [], 0)[0]:
            worker = by_fd[ready]
            piece = os.read(ready, 65_536)
            worker.heard += piece
            if not piece:
                os.close(ready)
                worker.ready_fd = -1
            elif worker.heard.endswith(b"\n"):
                self._hear(worker, json.loads(worker.heard))

    def _hear(self, worker: _Worker, word: dict[str, str]) -> None:
        worker.heard = b""
        if "snapshot" in word:
            worker.snapshot = word["snapshot"]
            worker.quick_deaths = 0
            return
        error = by_reason().get(word["reason"], InternalError)(word["message"])
        if not self._announced:
            raise error
        logger.error("worker %d cannot start: %s", worker.number, error)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for worker in self._workers:
                if worker.pid == pid:
                    self._bury(worker, os.waitstatus_to_exitcode(status))

    def _bury(self, worker: _Worker, code: int) -> None:
        self._listen()
        worker.pid = 0
        if worker.number != _METRICS:
            slab = self._board.slab(worker.number)
            slab["live"] = slab["in_flight"] = slab["streams"] = 0
        if not self._announced:
            raise UnavailableError(f"worker {worker.number} ended with code {code} before it answered; see the log")
        quick = time.monotonic() - worker.started_s < _QUICK_DEATH_S
        worker.quick_deaths = worker.quick_deaths + 1 if quick else 0
        pause_s = min(_LONGEST_PAUSE_S, 0.1 * 2.0**worker.quick_deaths) if worker.quick_deaths else 0.0
        worker.again_s = time.monotonic() + pause_s
        logger.error("worker %d ended with code %d; starting it again in %g s", worker.number, code, pause_s)

    def _announce(self) -> None:
        if self._announced or any(worker.snapshot is None for worker in self._workers):
            return
        self._announced = True
        listen, snapshot = self._config.listen, self._workers[0].snapshot or ""
        logger.info(
            "serving %s on %s:%d with %d workers",
            snapshot or "nothing yet; run: vicinal publish",
            listen.host,
            listen.port,
            self._worker_count,
        )
        write_ready_file(self._ready_file, host=listen.host, port=listen.port, snapshot=snapshot)

    def _stop(self) -> None:
        deadline_s = time.monotonic() + self._config.listen.drain_s + _KILL_AFTER_S
        for worker in self._workers:
            if worker.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGTERM)
        for worker in self._workers:
            while worker.pid:
                pid, _ = os.waitpid(worker.pid, os.WNOHANG)
                if pid:
                    worker.pid = 0
                elif time.monotonic() > deadline_s:
                    logger.error("worker %d does not stop; killing it", worker.number)
                    os.kill(worker.pid, signal.SIGKILL)
                    deadline_s = float("inf")
                else:
                    time.sleep(0.01)
            if worker.ready_fd >= 0:
                os.close(worker.ready_fd)
                worker.ready_fd = -1


def _say(ready_end: int, word: dict[str, str]) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(ready_end, json.dumps(word).encode() + b"\n")
