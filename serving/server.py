"""One worker: the event loop, the services, health, reflection, and an orderly end."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from serving.admission import Admission
from serving.board import Board
from serving.bridges import Bridges
from serving.calls import Context, Gatekeeper, Observer, Wiring
from serving.config import LimitsConfig, ServeConfig
from serving.context import ServingContext
from serving.generation import Generation
from serving.generations import Generations
from serving.handover import Seat
from serving.http2.link import Limits as Http2Limits
from serving.http2.server import Http2Server
from serving.http2.turns import Turns
from serving.place import Place
from serving.probe import keep_probing
from serving.queries import Queries
from serving.security import TlsFiles
from serving.traces import make_traces
from serving.wiring import service_handler
from serving.worker import core_count
from vicinal.errors import NoActiveSnapshotError, UnavailableError
from vicinal.store import Store
from vicinal.v1 import fewshot_service_pb2, label_service_pb2, search_service_pb2, snapshot_service_pb2

logger = logging.getLogger(__name__)
_FILES: tuple[tuple[FileDescriptor, str], ...] = (
    (search_service_pb2.DESCRIPTOR, "serving.servicers.search:SearchServicer"),
    (snapshot_service_pb2.DESCRIPTOR, "serving.servicers.snapshots:SnapshotServicer"),
    (fewshot_service_pb2.DESCRIPTOR, "serving.servicers.fewshot:FewshotServicer"),
    (label_service_pb2.DESCRIPTOR, "serving.servicers.labels:LabelServicer"),
)
_SERVING = health_pb2.HealthCheckResponse.SERVING
_STATE_S = 5.0
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def method_names() -> list[str]:
    """Returns the full name of every RPC of the contract."""
    return [
        f"/{service.full_name}/{method.name}"
        for descriptor, _ in _FILES
        for service in descriptor.services_by_name.values()
        for method in service.methods
    ]


def import_services() -> None:
    """Imports every service; a supervisor does so before it forks, so that the workers share them."""
    for _, place in _FILES:
        import_module(place.partition(":")[0])


class Anybody:
    """Lets every caller in; the client is its address.

    Args:
        limits: may bound what is in flight for each client; then the address is wanted.
        named: whether the address is wanted anyway; else nobody has a name.
    """

    def __init__(self, limits: LimitsConfig, *, named: bool) -> None:
        self._limits = limits
        self._named = named

    def admit(self, method: str, context: Context) -> str:  # noqa: ARG002 - the shape of a gatekeeper
        """Returns the address of the caller."""
        if not self._named and self._limits.max_in_flight_per_client >= self._limits.max_in_flight:
            return ""
        return str(context.peer()).rpartition(":")[0]


class Server:
    """One worker.

    Args:
        store: the workspace.
        config: the resolved configuration.
        fixed: serve this snapshot alone; empty follows the alias.
        gatekeeper: knows the callers.
        observers: are told of every call.
        place: what it shares with the other workers; default: it is alone.
    """

    def __init__(
        self,
        store: Store,
        config: ServeConfig,
        *,
        fixed: str = "",
        gatekeeper: Gatekeeper | None = None,
        observers: tuple[Observer, ...] = (),
        place: Place | None = None,
    ) -> None:
        self.config = config
        self.place = place or Place(board=Board(1, method_names()), number=0)
        """What it shares with the other workers."""
        self.admission = Admission(config.limits, self.place.slab)
        """Bounds what is in flight."""
        self._turns = Turns(lambda: config.limits.max_waiting)
        self.generations = Generations(
            store,
            verify=config.listen.verify,
            pinned_count=config.limits.pinned_generations,
            fixed=fixed,
            together=self.place,
        )
        """What is being served."""
        self._pool = ThreadPoolExecutor(max_workers=config.listen.threads or core_count(), thread_name_prefix="work")
        self._context = ServingContext(
            generations=self.generations,
            config=config,
            store=store,
            queries=Queries(config.limits, Bridges(store)),
            place=self.place,
            pool=self._pool,
        )
        self._wiring = Wiring(
            admission=self.admission,
            gatekeeper=gatekeeper or Anybody(config.limits, named=bool(observers)),
            identify=bool(observers),
            observers=(self.place, *observers),
            limits=config.limits,
            traces=make_traces(config.observe),
            secrets=((str(store.root.resolve()), "WORKSPACE"), (str(store.root), "WORKSPACE")),
        )
        self._health = health.aio.HealthServicer()
        self._grpc: grpc.aio.Server | Http2Server | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._servicers: list[object] = []

    async def start(self, *, reuse_port: bool = False, tls: TlsFiles | None = None) -> int:
        """Opens the active snapshot, then the port.

        Args:
            reuse_port: share the port with the other workers of the same supervisor.
            tls: its certificates; None is plain text.

        Returns:
            The port.

        Raises:
            UnavailableError: the port cannot be opened.
            VicinalError: the active snapshot cannot be opened.
        """
        with contextlib.suppress(NoActiveSnapshotError):
            await self.generations.follow()
        self._grpc = server = _transport(
            self.config,
            reuse_port=reuse_port,
            tls=tls,
            seat=self.place.seat(),
            turns=self._turns,
        )
        names = self._add_services(server)
        # The stubs of grpc know its own server alone, and have none for reflection.
        anyhow: Any = server
        add_reflection: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
        health_pb2_grpc.add_HealthServicer_to_server(self._health, anyhow)
        reflected = reflection.aio.ReflectionServicer([*names, health.SERVICE_NAME, reflection.SERVICE_NAME])
        add_reflection(reflected, anyhow)
        self.generations.listeners.append(self._on_swap)
        port = self._bind(server, tls)
        await server.start()
        await self._set_health(names)
        self._tasks.append(asyncio.create_task(self.generations.watch(poll_s=self.config.listen.swap_poll_s)))
        self._tasks.append(asyncio.create_task(self.generations.watch_changes(poll_s=self.config.listen.swap_poll_s)))
        self._tasks.append(asyncio.create_task(self._show_state()))
        if self.place.number == 0:
            self._tasks.append(asyncio.create_task(keep_probing(self._context, self.place)))
        return port

    def serving(self) -> str:
        """Returns the name of the snapshot in service, empty when there is none."""
        return "" if self._empty() else self.generations.current().ref.name

    async def stop(self) -> None:
        """Turns new calls away, lets those in flight end within ``drain_s``, and closes everything."""
        self.admission.draining = True
        await self._health.enter_graceful_shutdown()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._grpc is not None:
            await self._grpc.stop(self.config.listen.drain_s)
        for servicer in self._servicers:
            close = getattr(servicer, "close", None)
            if close is not None:
                close()
        if self._wiring.traces is not None:
            await asyncio.to_thread(self._wiring.traces.close)
        self.generations.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _add_services(self, server: grpc.aio.Server | Http2Server) -> list[str]:
        names = []
        for descriptor, place in _FILES:
            servicer = _servicer(place, self._context)
            self._servicers.append(servicer)
            for service in descriptor.services_by_name.values():
                server.add_generic_rpc_handlers((service_handler(service, servicer, self._wiring),))
                names.append(service.full_name)
        return names

    def _bind(self, server: grpc.aio.Server | Http2Server, tls: TlsFiles | None) -> int:
        listen = self.config.listen
        host = f"[{listen.host}]" if ":" in listen.host and not listen.host.startswith(("[", "unix:")) else listen.host
        address = host if host.startswith("unix:") else f"{host}:{listen.port}"
        try:
            if isinstance(server, Http2Server):
                return server.add_port(address)
            if tls is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, tls.credentials())
        except RuntimeError as error:
            raise UnavailableError(
                f"cannot listen on {address}: the port is taken or the address is not of this machine; "
                "choose another with --port"
            ) from error

    async def _set_health(self, names: Sequence[str]) -> None:
        ready = not self._empty()
        for name in ("", *names):
            await self._health.set(name, _SERVING if ready else _NOT_SERVING)
        self._health_names = tuple(names)

    def _on_swap(self, generation: Generation) -> None:  # noqa: ARG002 - the shape of a listener
        names = getattr(self, "_health_names", None)
        if names is not None:
            self._tasks.append(asyncio.get_running_loop().create_task(self._set_health(names)))

    async def _show_state(self) -> None:
        while True:
            self.place.show_memory()
            self.place.slab["waiting"] = len(self._turns)
            if not self._empty():
                self.place.show_changes(self.generations.current())
            await asyncio.sleep(_STATE_S)

    def _empty(self) -> bool:
        try:
            self.generations.current()
        except Exception:  # noqa: BLE001 - whatever the reason, nothing is served
            return True
        return False


def _servicer(place: str, context: ServingContext) -> object | None:
    module, _, name = place.partition(":")
    if find_spec(module) is None:
        return None
    servicer: object = getattr(import_module(module), name)(context)
    return servicer


def _transport(
    config: ServeConfig, *, reuse_port: bool, tls: TlsFiles | None, seat: Seat | None, turns: Turns
) -> grpc.aio.Server | Http2Server:
    if config.listen.transport == "grpc":
        return grpc.aio.server(options=_options(config, reuse_port=reuse_port))
    limits = config.limits
    # More calls than are let in, so that the others hear that the server is busy.
    streams = 4 * limits.max_in_flight + limits.max_streams
    http2_limits = Http2Limits(message_bytes=limits.max_message_mib * 2**20, streams=streams)
    contexts = None if tls is None else tls.context
    return Http2Server(http2_limits, reuse_port=reuse_port, seat=seat, turns=turns, tls=contexts)


def _options(config: ServeConfig, *, reuse_port: bool) -> list[tuple[str, Any]]:
    message_bytes = config.limits.max_message_mib * 2**20 - (config.limits.max_message_mib == 2**11)
    return [
        ("grpc.so_reuseport", int(reuse_port)),
        ("grpc.max_receive_message_length", message_bytes),
        ("grpc.max_send_message_length", message_bytes),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
