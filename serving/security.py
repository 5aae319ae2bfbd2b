"""Builds what guards a server from its configuration: TLS credentials and the gate for callers."""

import logging
import os
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


def make_credentials(tls: TlsConfig) -> grpc.ServerCredentials | None:
    """Returns TLS credentials that follow the certificate files when they change; None is plain text.

    Raises:
        InvalidConfigError: a file cannot be read, or is not a certificate and its key.
    """
    if not tls.certificate:
        return None
    files = _Files(tls)
    try:
        initial = files.read()
        # The stubs of grpc leave out that a fetcher may say that nothing has changed.
        fetch: Any = files.fetch
        return grpc.dynamic_ssl_server_credentials(initial, fetch, require_client_authentication=bool(tls.client_ca))
    except OSError as error:
        raise InvalidConfigError(f"cannot read {error.filename}: {error.strerror}", field="tls") from error


class _Files:
    """The PEM files of a server; read again when one changes, as a renewed certificate does."""

    def __init__(self, tls: TlsConfig) -> None:
        self._tls = tls
        self._paths = [Path(path) for path in (tls.private_key, tls.certificate, tls.client_ca) if path]
        self._seen: list[tuple[int, int]] = []

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Returns what the files hold."""
        self._seen = self._stamps()
        contents = [path.read_bytes() for path in self._paths]
        for path, content in zip(self._paths, contents, strict=True):
            if b"-----BEGIN " not in content:
                raise InvalidConfigError(f"{path} is not a PEM file", field="tls")
        pair = [(contents[0], contents[1])]
        root = contents[2] if self._tls.client_ca else None
        return grpc.ssl_server_certificate_configuration(pair, root_certificates=root)

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns what the files hold if they have changed; called by gRPC at every handshake."""
        try:
            return self.read() if self._stamps() != self._seen else None
        except (OSError, InvalidConfigError) as error:
            logger.error("the certificates stay as they were: %s", error)  # noqa: TRY400 - said
            return None

    def _stamps(self) -> list[tuple[int, int]]:
        return [(status.st_mtime_ns, status.st_ino) for status in (os.stat(path) for path in self._paths)]  # noqa: PTH116
