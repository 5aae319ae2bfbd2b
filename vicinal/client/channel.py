"""How a client reaches its server: address, credentials, channel options, retries."""

import os
import random
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from vicinal.codec import decode_status
from vicinal.errors import InvalidArgumentError, UnavailableError, VicinalError

DEFAULT_ADDRESS = "127.0.0.1:50051"
API_KEY_HEADER = "authorization"
_MAX_MESSAGE_BYTES = 2**31 - 1
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
"""Variables by which gRPC is told of a proxy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a call is sent again: only after UNAVAILABLE, and never past its deadline."""

    attempt_count: int = 6
    """Attempts in all, at least 1."""
    first_s: float = 0.05
    """Longest wait before the second attempt, seconds; it doubles, and the wait is drawn evenly below it."""
    max_s: float = 2.0
    """Upper bound of that, seconds."""

    def wait_s(self, attempt: int) -> float:
        """Returns how long to wait after an attempt, counted from 0, with full jitter."""
        longest_s = min(self.max_s, self.first_s * float(2**attempt))
        return random.uniform(0.2, 1.0) * longest_s  # noqa: S311 - jitter


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """Credentials of a client; all empty is plain text without a key."""

    tls: bool = False
    """Use TLS with the machine's certificate authorities, unless ``ca`` names others."""
    ca: str = ""
    """PEM file of the authorities that the server's certificate is checked against; implies TLS."""
    certificate: str = ""
    """PEM file of the client's own certificate, for mutual TLS."""
    private_key: str = ""
    """PEM file of its key."""
    server_name: str = ""
    """Name expected in the server's certificate, when it differs from the address."""
    api_key: str = ""
    """API key, sent with every call; needs TLS unless the server is on this machine."""


def is_plain_address(address: str) -> bool:
    """Returns whether an address is ``HOST:PORT``, which our own HTTP/2 reaches, and no proxy is wanted."""
    if any(os.environ.get(name) for name in _PROXIES):
        return False
    host, _, port = address.rpartition(":")
    return bool(host) and port.isdecimal() and "/" not in host and (":" not in host or host.startswith("["))


def channel_options(security: Security) -> list[tuple[str, Any]]:
    """Returns the channel options: large messages, keepalive, quick reconnects."""
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.enable_retries", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if security.server_name:
        options.append(("grpc.ssl_target_name_override", security.server_name))
    return options


def credentials(security: Security) -> grpc.ChannelCredentials | None:
    """Returns the channel credentials, None for plain text.

    Raises:
        InvalidArgumentError: a file cannot be read, or a certificate without its key.
    """
    if bool(security.certificate) != bool(security.private_key):
        raise InvalidArgumentError("certificate and private_key go together")
    if not (security.tls or security.ca or security.certificate):
        return None
    return grpc.ssl_channel_credentials(
        root_certificates=_read(security.ca),
        private_key=_read(security.private_key),
        certificate_chain=_read(security.certificate),
    )


def own_context(security: Security) -> ssl.SSLContext | None:
    """Returns what our own HTTP/2 needs for TLS with the authority that ``ca`` names; None where none is named.

    Which authorities a machine has is for gRPC to say, so that both kinds of clients trust the same.

    Raises:
        InvalidArgumentError: a file is not what it should be.
    """
    if not security.ca:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        context.load_verify_locations(security.ca)
        if security.certificate:
            context.load_cert_chain(security.certificate, security.private_key, password=_no_password)
    except OSError as error:
        files = ", ".join(path for path in (security.ca, security.certificate, security.private_key) if path)
        raise InvalidArgumentError(f"cannot take the certificates in {files}: {error}") from error
    return context


def call_metadata(security: Security) -> tuple[tuple[str, str], ...]:
    """Returns what is sent with every call."""
    return ((API_KEY_HEADER, f"Bearer {security.api_key}"),) if security.api_key else ()


_BROKEN = "Internal error from Core"
"""What gRPC's asyncio client makes of a connection that breaks while a call is sent; no server says it."""


def to_error(error: grpc.RpcError, address: str) -> VicinalError:
    """Returns the error of a failed call, of the class that the server raised.

    Args:
        error: what gRPC raised.
        address: of the server, for the message.
    """
    code = error.code()
    details = error.details() or ""
    metadata: Any = error.trailing_metadata() or ()
    trailing: list[tuple[str, str | bytes]] = [(key, value) for key, value in metadata]
    found = decode_status(code.value[0], details, trailing)
    if code is grpc.StatusCode.INTERNAL and details == _BROKEN:
        found = UnavailableError(details)
    if isinstance(found, UnavailableError) and not any(key == "x-request-id" for key, _ in trailing):
        return UnavailableError(
            f"no server answers at {address} ({details}); start one with: vicinal serve", metadata=found.metadata
        )
    return found


def _no_password() -> str:
    raise InvalidArgumentError("private_key is encrypted; give a key without a password")


def _read(path: str) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidArgumentError(f"cannot read {path}: {error.strerror or error}") from error
