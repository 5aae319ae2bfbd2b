"""Builds what guards a server from its configuration: TLS and the gate for callers."""

import logging
import os
import ssl
from pathlib import Path
from typing import Any

import grpc

from serving.access import CertificateGate, KeyFile, KeyGate, Role
from serving.calls import Gatekeeper
from serving.config import ServeConfig, TlsConfig
from vicinal.errors import InvalidConfigError

logger = logging.getLogger(__name__)


def make_gatekeeper(config: ServeConfig) -> Gatekeeper | None:
    """Returns the gate for callers; None lets everybody in.

    Raises:
        InvalidConfigError: the keys cannot be read.
    """
    if config.auth.keys_file:
        return KeyGate(KeyFile(path=Path(config.auth.keys_file)))
    if config.tls.client_ca:
        return CertificateGate(Role[config.tls.client_role.upper()])
    return None


def make_tls(tls: TlsConfig) -> "TlsFiles | None":
    """Returns the TLS of a server; None is plain text.

    Raises:
        InvalidConfigError: a file cannot be read, or is not a certificate and its key.
    """
    return TlsFiles(tls) if tls.certificate else None


class TlsFiles:
    """The PEM files of a server; read again when one changes, as a renewed certificate does.

    Args:
        tls: where they are.

    Raises:
        InvalidConfigError: one cannot be read, or they are not a certificate and its key.
    """

    def __init__(self, tls: TlsConfig) -> None:
        self._tls = tls
        self._paths = [Path(path) for path in (tls.private_key, tls.certificate, tls.client_ca) if path]
        self._seen: list[tuple[int, int]] = []
        self._contents: list[bytes] = []
        self._context = self._read()

    def context(self) -> ssl.SSLContext:
        """Returns what the handshake of a new connection takes: TLS 1.2 or 1.3, and HTTP/2 alone.

        Files that have changed and cannot be read, or do not belong together, change nothing.
        """
        self._look()
        return self._context

    def credentials(self) -> grpc.ServerCredentials:
        """Returns the same for gRPC's own server."""
        # The stubs of grpc leave out that a fetcher may say that nothing has changed.
        fetch: Any = self._fetch
        wants = bool(self._tls.client_ca)
        return grpc.dynamic_ssl_server_credentials(self._for_grpc(), fetch, require_client_authentication=wants)

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns what the files hold if they have changed; called by gRPC at every handshake."""
        return self._for_grpc() if self._look() else None

    def _for_grpc(self) -> grpc.ServerCertificateConfiguration:
        private_key, certificate, *authorities = self._contents
        root = authorities[0] if authorities else None
        return grpc.ssl_server_certificate_configuration([(private_key, certificate)], root_certificates=root)

    def _look(self) -> bool:
        """Reads the files if they have changed; returns whether they have, and are good."""
        try:
            if self._stamps() == self._seen:
                return False
            self._context = self._read()
        except (OSError, InvalidConfigError) as error:
            logger.error("the certificates stay as they were: %s", error)  # noqa: TRY400 - said
            return False
        return True

    def _read(self) -> ssl.SSLContext:
        tls = self._tls
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        # Of TLS 1.2 what HTTP/2 allows (RFC 9113, section 9.2.2); those of TLS 1.3 are all good.
        context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
        context.set_alpn_protocols(["h2"])
        try:
            self._seen = self._stamps()
            contents = [path.read_bytes() for path in self._paths]
            for path, content in zip(self._paths, contents, strict=True):
                if b"-----BEGIN " not in content:
                    raise InvalidConfigError(f"{path} is not a PEM file", field="tls")
            context.load_cert_chain(tls.certificate, tls.private_key, password=_no_password)
            if tls.client_ca:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(tls.client_ca)
        except ssl.SSLError as error:
            raise InvalidConfigError(
                f"{' and '.join(map(str, self._paths))} are not a key, its certificate and authorities: "
                f"{error.reason or error}",
                field="tls",
            ) from error
        except OSError as error:
            raise InvalidConfigError(f"cannot read {error.filename}: {error.strerror}", field="tls") from error
        self._contents = contents
        return context

    def _stamps(self) -> list[tuple[int, int]]:
        return [(status.st_mtime_ns, status.st_ino) for status in (os.stat(path) for path in self._paths)]  # noqa: PTH116 - quicker, at every handshake


def _no_password() -> str:
    raise InvalidConfigError("tls.private_key is encrypted; give a key without a password", field="tls.private_key")
