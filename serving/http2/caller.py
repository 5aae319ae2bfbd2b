"""Who is at the other end of a connection: its address, and what TLS has checked of it."""

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from typing import Any

NOBODY: Mapping[str, Iterable[bytes]] = {}
"""What is known of a caller on plain text."""


def address_of(transport: asyncio.BaseTransport) -> str:
    """Returns the address, as gRPC writes it: ``ipv4:127.0.0.1:5000``."""
    address = transport.get_extra_info("peername")
    if not isinstance(address, tuple):
        return "unix:"
    host, port = address[:2]
    return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"


def speaks_http2(transport: asyncio.BaseTransport) -> bool:
    """Returns whether HTTP/2 was agreed on; on plain text it is not asked."""
    tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    return tls is None or tls.selected_alpn_protocol() == "h2"


def identity_of(transport: asyncio.BaseTransport) -> Mapping[str, Iterable[bytes]]:
    """Returns what TLS has checked, under the names that gRPC gives it.

    Returns:
        Empty on plain text; else ``transport_security_type``, and of a certificate that was asked for
        ``x509_common_name`` and ``x509_subject_alternative_name``, where it has them.
    """
    tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    if tls is None:
        return NOBODY
    found: dict[str, list[bytes]] = {"transport_security_type": [b"ssl"]}
    # What was not checked is left out by ``getpeercert``.
    certificate: Mapping[str, Any] = tls.getpeercert() or {}
    for parts in certificate.get("subject", ()):
        for name, value in parts:
            if name == "commonName":
                found.setdefault("x509_common_name", []).append(value.encode())
    names = [str(value).encode() for _, value in certificate.get("subjectAltName", ())]
    if names:
        found["x509_subject_alternative_name"] = names
    return found
