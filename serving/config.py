"""The configuration of a server: one TOML file, environment overrides, ``--set section.key=value``.

Order, later wins: the defaults here, the file, ``VICINAL_SERVE__SECTION__KEY`` in the environment,
``--set``. An unknown key is refused. docs/runbook.md and serving/config.toml show every key.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vicinal.config import from_mapping, read_toml, with_overrides
from vicinal.errors import InvalidConfigError
from vicinal.types import JsonObject

ENVIRONMENT_PREFIX = "VICINAL_SERVE__"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenConfig:
    """Where the server listens and how it starts and stops."""

    host: str = "127.0.0.1"
    """Address to listen on; anything but loopback needs TLS and keys, or ``insecure``."""
    port: int = 50051
    """TCP port, 0 to 65535; 0 takes a free one and prints it."""
    processes: int = 0
    """Worker processes on the port, 1 to 256; 0 takes one a core."""
    threads: int = 0
    """Threads of each worker for work that takes over about a millisecond; 0 takes one a core it may use."""
    transport: str = "auto"
    """What speaks HTTP/2: ``http2``, our own; ``grpc``, gRPC's server; ``auto`` takes ours."""
    drain_s: float = 10.0
    """Seconds that requests in flight may take after SIGTERM, from 0."""
    insecure: bool = False
    """Serve off loopback without TLS or without keys."""
    swap_poll_s: float = 0.1
    """Seconds between looks at the alias, above 0."""
    verify: bool = True
    """Check the SHA-256 of every file of a snapshot before it is served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """What a request and all of them together may take."""

    max_message_mib: int = 64
    """Largest request or reply in MiB, 1 to 2047."""
    max_neighbor_count: int = 10_000
    """Most neighbors a query may ask for, at least 1."""
    max_batch_queries: int = 10_000
    """Most queries in a BatchSearch, at least 1."""
    max_reply_neighbors: int = 2_000_000
    """Most neighbors in one reply (queries times neighbor_count), at least 1."""
    max_images: int = 256
    """Most images in one request, at least 1."""
    max_image_mib: float = 32.0
    """Largest encoded image in MiB, above 0."""
    max_pixels: int = 50_000_000
    """Largest image in pixels, width times height, checked before decoding."""
    embedding_cache_count: int = 10_000
    """Embeddings of query images that a worker remembers by digest; 0 remembers none."""
    max_in_flight: int = 256
    """Requests of one worker in flight; more are refused at once with RetryInfo."""
    max_in_flight_per_client: int = 256
    """The same for one client (key, or address without keys)."""
    max_waiting: int = 4096
    """Plain vector queries of one worker that wait for their turn; more are refused at once with RetryInfo."""
    max_streams: int = 64
    """Open StreamSearch calls of one worker."""
    stream_window: int = 64
    """Queries of one stream that are worked on at a time."""
    default_timeout_s: float = 60.0
    """Deadline of a call that came without one, seconds, above 0."""
    retry_after_ms: int = 50
    """What RetryInfo says when the server is overloaded, milliseconds."""
    max_pending_items: int = 100_000
    """Items that may be upserted between refreshes; each search compares with all of them."""
    pinned_generations: int = 2
    """Snapshots besides the active one that are kept open for pinned requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """Transport security; empty paths mean plain text."""

    certificate: str = ""
    """PEM file of the server's certificate chain."""
    private_key: str = ""
    """PEM file of its key."""
    client_ca: str = ""
    """PEM file of the authorities that sign client certificates; set, a client must have one (mutual TLS)."""
    client_role: str = "reader"
    """What a client certificate allows where no keys are wanted: ``reader``, ``labeler``, ``writer`` or ``admin``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthConfig:
    """API keys."""

    keys_file: str = ""
    """JSON file written by ``vicinal keys``; set, every call needs a key. Read again when it changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserveConfig:
    """Metrics and logs."""

    metrics_host: str = "127.0.0.1"
    """Address of the Prometheus endpoint."""
    metrics_port: int = -1
    """Port of the Prometheus endpoint; -1 serves none."""
    access_log: bool = False
    """Write one JSON line a call to standard error."""
    log_level: str = "info"
    """``debug``, ``info``, ``warning`` or ``error``."""
    probe_interval_s: float = 60.0
    """Seconds between recall probes; 0 probes never."""
    probe_queries: int = 8
    """Queries of each probe, 1 to 1,000."""
    traces_endpoint: str = ""
    """OTLP endpoint (gRPC) that traces are sent to, such as ``http://127.0.0.1:4317``; empty traces nothing."""
    traces_share: float = 0.01
    """Share of the calls without a ``traceparent`` that are traced, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshJobConfig:
    """What StartRefresh may do."""

    enabled: bool = False
    """Whether an admin may start a refresh by RPC; it then runs on this machine."""
    corpora: dict[str, str] = field(default_factory=dict)
    """What it may read: the names that callers give, and for each what ``vicinal refresh`` is to be given."""
    niceness: int = 10
    """Added to that of the server, 0 to 19, so that searches come first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Everything ``vicinal serve`` can be told."""

    listen: ListenConfig = field(default_factory=ListenConfig)
    """Where it listens and how it starts and stops."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """What requests may take."""
    tls: TlsConfig = field(default_factory=TlsConfig)
    """Transport security."""
    auth: AuthConfig = field(default_factory=AuthConfig)
    """API keys."""
    observe: ObserveConfig = field(default_factory=ObserveConfig)
    """Metrics and logs."""
    refresh: RefreshJobConfig = field(default_factory=RefreshJobConfig)
    """What StartRefresh may do."""


def load_config(
    path: Path | None, *, assignments: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> ServeConfig:
    """Resolves the configuration of a server.

    Args:
        path: a TOML file, or None for the defaults.
        assignments: ``section.key=value`` texts, as given to ``--set``.
        environ: environment, of which ``VICINAL_SERVE__SECTION__KEY`` variables are taken.

    Raises:
        InvalidConfigError: an unknown key, a wrong value, or values that do not go together.
    """
    mapping: JsonObject = read_toml(path) if path else {}
    for name, value in sorted((environ or {}).items()):
        if name.startswith(ENVIRONMENT_PREFIX):
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            mapping = with_overrides(mapping, [f"{key}={value}"], where=name)
    mapping = with_overrides(mapping, assignments)
    config = from_mapping(ServeConfig, mapping, where=str(path) if path else "serve")
    _check(config)
    return config


def is_loopback(host: str) -> bool:
    """Returns whether only this machine can reach an address."""
    if host == "localhost" or host.startswith("unix:"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _check(config: ServeConfig) -> None:
    listen, limits, tls = config.listen, config.limits, config.tls
    ranges = (
        ("listen.port", listen.port, 0, 65535),
        ("listen.processes", listen.processes, 0, 256),
        ("listen.threads", listen.threads, 0, 1024),
        ("listen.drain_s", listen.drain_s, 0, 3600),
        ("listen.swap_poll_s", listen.swap_poll_s, 0.001, 3600),
        ("limits.max_message_mib", limits.max_message_mib, 1, 2047),
        ("limits.max_neighbor_count", limits.max_neighbor_count, 1, 10_000_000),
        ("limits.max_batch_queries", limits.max_batch_queries, 1, 10_000_000),
        ("limits.max_reply_neighbors", limits.max_reply_neighbors, 1, 100_000_000),
        ("limits.max_images", limits.max_images, 1, 100_000),
        ("limits.max_image_mib", limits.max_image_mib, 0.0001, 2047),
        ("limits.max_pixels", limits.max_pixels, 1, 1_000_000_000),
        ("limits.embedding_cache_count", limits.embedding_cache_count, 0, 100_000_000),
        ("limits.max_in_flight", limits.max_in_flight, 1, 1_000_000),
        ("limits.max_in_flight_per_client", limits.max_in_flight_per_client, 1, 1_000_000),
        ("limits.max_waiting", limits.max_waiting, 1, 1_000_000),
        ("limits.max_streams", limits.max_streams, 1, 1_000_000),
        ("limits.stream_window", limits.stream_window, 1, 100_000),
        ("limits.default_timeout_s", limits.default_timeout_s, 0.001, 86_400),
        ("limits.retry_after_ms", limits.retry_after_ms, 1, 60_000),
        ("limits.max_pending_items", limits.max_pending_items, 0, 100_000_000),
        ("limits.pinned_generations", limits.pinned_generations, 1, 100),
        ("observe.metrics_port", config.observe.metrics_port, -1, 65535),
        ("observe.probe_interval_s", config.observe.probe_interval_s, 0, 86_400),
        ("refresh.niceness", config.refresh.niceness, 0, 19),
        ("observe.traces_share", config.observe.traces_share, 0, 1),
        ("observe.probe_queries", config.observe.probe_queries, 1, 1000),
    )
    for name, value, low, high in ranges:
        if not low <= value <= high:
            raise InvalidConfigError(f"{name} is {value}, wanted {low} to {high}", field=name)
    _check_transport(listen)
    if config.observe.log_level not in {"debug", "info", "warning", "error"}:
        raise InvalidConfigError(
            f"observe.log_level is {config.observe.log_level!r}, wanted debug, info, warning or error",
            field="observe.log_level",
        )
    if tls.client_role not in {"reader", "labeler", "writer", "admin"}:
        raise InvalidConfigError(
            f"tls.client_role is {tls.client_role!r}, wanted reader, labeler, writer or admin", field="tls.client_role"
        )
    if bool(tls.certificate) != bool(tls.private_key) or (tls.client_ca and not tls.certificate):
        raise InvalidConfigError("tls.certificate and tls.private_key go together; tls.client_ca needs both")
    if not is_loopback(listen.host) and not listen.insecure:
        _check_exposed(config)


def _check_transport(listen: ListenConfig) -> None:
    if listen.transport not in {"auto", "http2", "grpc"}:
        raise InvalidConfigError(
            f"listen.transport is {listen.transport!r}, wanted auto, http2 or grpc", field="listen.transport"
        )


def _check_exposed(config: ServeConfig) -> None:
    missing = [
        what
        for what, there in (
            ("TLS (tls.certificate, tls.private_key)", config.tls.certificate),
            (
                "API keys (auth.keys_file) or client certificates (tls.client_ca)",
                config.auth.keys_file or config.tls.client_ca,
            ),
        )
        if not there
    ]
    if missing:
        raise InvalidConfigError(
            f"{config.listen.host} is reachable from other machines without {' and without '.join(missing)}; "
            "set them, listen on 127.0.0.1, or say --insecure",
            field="listen.host",
        )
