"""TLS and mutual TLS over real connections, of our own HTTP/2 and of gRPC's server."""

import asyncio
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization

from serving.config import ServeConfig, load_config
from serving.security import make_gatekeeper, make_tls
from tests.serving.certificates import Certificates
from tests.serving.conftest import config, make_vectors, running
from vicinal.client import AsyncClient, Client, RetryPolicy, Security
from vicinal.client.channel import own_context
from vicinal.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    InvalidConfigError,
    PermissionDeniedError,
    UnavailableError,
    VicinalError,
)
from vicinal.store import Store

ONCE = RetryPolicy(attempt_count=1)


def secured(certificates: Certificates, *more: str) -> ServeConfig:
    certificate, private_key = certificates.server
    return config(f"tls.certificate={certificate}", f"tls.private_key={private_key}", *more)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def ask(address: str, security: Security, kind: str, *, timeout_s: float = 10) -> int:
    """Returns how many neighbors a client of either kind finds."""
    if kind == "blocking":
        with Client(address, security=security, retry=ONCE) as client:
            return len(client.search("item-00001", timeout_s=timeout_s))

    async def search() -> int:
        async with AsyncClient(address, security=security, retry=ONCE) as client:
            return len(await client.search("item-00001", timeout_s=timeout_s))

    return asyncio.run(search())


TRANSPORTS = pytest.mark.parametrize("transport", ["http2", "grpc"])
CLIENTS = pytest.mark.parametrize("kind", ["blocking", "asyncio"])


@TRANSPORTS
@CLIENTS
def test_tls_is_checked_and_plain_text_refused(
    vector_store: Store, certificates: Certificates, transport: str, kind: str
) -> None:
    settings = secured(certificates, f"listen.transport={transport}")
    with running(vector_store, settings, tls=make_tls(settings.tls)) as (_, address):
        assert ask(address, Security(ca=certificates.ca), kind) == 10
        strangers = Certificates(Path(certificates.ca).parent / "strangers")
        for security in (Security(), Security(tls=True), Security(ca=strangers.ca)):
            with pytest.raises(UnavailableError):
                ask(address, security, kind, timeout_s=5)
        with pytest.raises(UnavailableError):
            ask(address, Security(ca=certificates.ca, server_name="elsewhere"), kind, timeout_s=5)
        assert ask(address, Security(ca=certificates.ca, server_name="localhost"), kind) == 10


@TRANSPORTS
@CLIENTS
def test_mutual_tls_wants_a_certificate_and_gives_its_role(
    vector_store: Store, certificates: Certificates, transport: str, kind: str
) -> None:
    settings = secured(certificates, f"tls.client_ca={certificates.ca}", f"listen.transport={transport}")
    gate = make_gatekeeper(settings)
    mine, my_key = certificates.client
    with running(vector_store, settings, tls=make_tls(settings.tls), gatekeeper=gate) as (_, address):
        known = Security(ca=certificates.ca, certificate=mine, private_key=my_key)
        assert ask(address, known, kind) == 10
        with (
            Client(address, security=known) as client,
            pytest.raises(PermissionDeniedError, match="certificate 'ann' has reader"),
        ):
            client.activate_snapshot("snapshots/000001")
        other_cert, other_key = Certificates(Path(mine).parent / "strangers").client
        for unknown in (
            Security(ca=certificates.ca),
            Security(ca=certificates.ca, certificate=other_cert, private_key=other_key),
        ):
            with pytest.raises(UnavailableError):
                ask(address, unknown, kind, timeout_s=5)


@TRANSPORTS
def test_a_renewed_certificate_is_taken_without_a_restart(
    vector_store: Store, certificates: Certificates, tmp_path: Path, transport: str
) -> None:
    settings = secured(certificates, f"listen.transport={transport}")
    old_ca = Path(certificates.ca).read_bytes()
    with running(vector_store, settings, tls=make_tls(settings.tls)) as (_, address):
        assert ask(address, Security(ca=certificates.ca), "blocking") == 10
        certificate, private_key = certificates.server
        old_key = Path(private_key).read_bytes()
        other = Certificates(tmp_path)  # the same files
        Path(private_key).write_bytes(old_key)
        first = tmp_path / "first.pem"
        first.write_bytes(old_ca)
        # A certificate whose key has not come yet is not taken.
        assert ask(address, Security(ca=str(first)), "blocking") == 10
        Certificates(tmp_path)
        assert ask(address, Security(ca=other.ca), "blocking") == 10
        assert Path(certificate).exists()


def test_what_speaks_no_http2_or_no_tls_ends_and_others_are_served(
    vector_store: Store, certificates: Certificates
) -> None:
    settings = secured(certificates)
    with running(vector_store, settings, tls=make_tls(settings.tls)) as (_, address):
        host, _, port = address.rpartition(":")
        trusting = ssl.create_default_context(cafile=certificates.ca)
        trusting.verify_flags &= ~ssl.VERIFY_X509_STRICT
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            trusting.wrap_socket(plain, server_hostname="localhost") as silent,
        ):
            assert silent.selected_alpn_protocol() is None
            said = b""
            while data := silent.recv(1000):
                said += data
            assert b"does not offer h2" in said
        trusting.set_alpn_protocols(["h2"])
        trusting.maximum_version = ssl.TLSVersion.TLSv1_2
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            trusting.wrap_socket(plain, server_hostname="localhost") as older,
        ):
            assert (older.version(), older.selected_alpn_protocol()) == ("TLSv1.2", "h2")
            assert str((older.cipher() or ("",))[0]).startswith("ECDHE")
        # One that says nothing holds nobody up.
        with socket.create_connection((host, int(port)), timeout=10) as mute:
            assert ask(address, Security(ca=certificates.ca), "asyncio") == 10
            mute.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            assert not mute.recv(1000).startswith(b"\0")
        assert ask(address, Security(ca=certificates.ca), "blocking") == 10


def test_large_messages_and_streams_go_through_tls(vector_store: Store, certificates: Certificates) -> None:
    settings = secured(certificates)

    async def stream(address: str) -> None:
        async with AsyncClient(address, security=Security(ca=certificates.ca), connections=4) as client:
            found = [one async for one in client.stream_search([f"item-{row:05d}" for row in range(200)])]
            many = await asyncio.gather(*(client.search(f"item-{row:05d}") for row in range(200)))
            assert [one.item_ids for one in many] == [
                one.item_ids for one in found if not isinstance(one, VicinalError)
            ]

    with running(vector_store, settings, tls=make_tls(settings.tls)) as (_, address):
        asyncio.run(stream(address))
        x_QD = np.tile(make_vectors(300), (20, 1))
        with Client(address, security=Security(ca=certificates.ca)) as client:
            assert len(client.batch_search(x_QD, neighbor_count=50)) == len(x_QD)
            assert len(list(client.stream_search(["item-00001"] * 100))) == 100
            names = [f"item-{row:05d}" for row in range(200)]
            with ThreadPoolExecutor(8) as pool:
                found = list(pool.map(client.search, names))
            assert [one.item_ids for one in found] == [client.search(name).item_ids for name in names]


def test_a_blocking_client_bears_a_server_that_breaks_off_or_says_nothing(certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        start_s = time.monotonic()
        with pytest.raises(DeadlineExceededError):
            ask(address, Security(ca=certificates.ca), "blocking", timeout_s=0.3)
        assert time.monotonic() - start_s < 5

        def break_off() -> None:
            for _ in range(2):
                listener.accept()[0].close()

        with ThreadPoolExecutor(1) as pool:
            pool.submit(break_off)
            with pytest.raises(UnavailableError):
                ask(address, Security(ca=certificates.ca), "blocking")


@CLIENTS
def test_a_server_that_speaks_tls_but_no_http2_is_named(certificates: Certificates, kind: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.server)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with context.wrap_socket(listener.accept()[0], server_side=True) as one, suppress(OSError):
                one.recv(1000)

        with ThreadPoolExecutor(1) as pool:
            pool.submit(answer)
            with pytest.raises(UnavailableError, match="speaks TLS, but not HTTP/2"):
                ask(f"127.0.0.1:{listener.getsockname()[1]}", Security(ca=certificates.ca), kind)


def test_files_that_are_no_certificates_are_refused(tmp_path: Path, certificates: Certificates) -> None:
    text = tmp_path / "text.pem"
    text.write_text("hello", encoding="utf-8")
    certificate, private_key = certificates.server
    _, other_key = certificates.client
    for one, key, why in (
        (tmp_path / "none", text, "cannot read"),
        (text, text, "not a PEM file"),
        (certificate, other_key, "are not a key, its certificate"),
        (private_key, private_key, "are not a key, its certificate"),
    ):
        settings = load_config(None, assignments=[f"tls.certificate={one}", f"tls.private_key={key}"])
        with pytest.raises(InvalidConfigError, match=why):
            make_tls(settings.tls)
    encrypted = tmp_path / "encrypted.key"
    loaded = serialization.load_pem_private_key(Path(private_key).read_bytes(), None)
    encrypted.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    settings = load_config(None, assignments=[f"tls.certificate={certificate}", f"tls.private_key={encrypted}"])
    with pytest.raises(InvalidConfigError, match="encrypted"):
        make_tls(settings.tls)
    with pytest.raises(InvalidArgumentError, match="encrypted"):
        own_context(Security(ca=certificates.ca, certificate=certificate, private_key=str(encrypted)))
    with pytest.raises(InvalidArgumentError, match="cannot take the certificates"):
        own_context(Security(ca=str(text)))
    assert make_tls(load_config(None).tls) is None
