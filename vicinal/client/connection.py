"""The options by which commands reach a server."""

import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from vicinal.client.channel import DEFAULT_ADDRESS, Security
from vicinal.client.sync import Client

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--address",
        envvar="VICINAL_ADDRESS",
        default=DEFAULT_ADDRESS,
        show_default=True,
        help="Server, host:port.",
    ),
    click.option("--timeout", "timeout_s", type=float, default=30.0, show_default=True, help="Seconds to wait."),
    click.option("--tls", is_flag=True, envvar="VICINAL_TLS", help="Use TLS with this machine's authorities."),
    click.option("--ca", default="", envvar="VICINAL_CA", help="PEM file of the server's authority; implies TLS."),
    click.option("--certificate", default="", envvar="VICINAL_CERTIFICATE", help="PEM file, for mutual TLS."),
    click.option("--private-key", default="", envvar="VICINAL_PRIVATE_KEY", help="PEM file of its key."),
    click.option("--server-name", default="", help="Name in the server's certificate, when it is not the address."),
)


def connection_options(command: F) -> F:
    """Adds ``--address`` and its like to a command, which gets an open ``client`` instead of them.

    The API key is taken from ``VICINAL_API_KEY`` alone: an option would show it to every user of the machine.
    """

    @functools.wraps(command)
    def run(  # noqa: PLR0913 - one argument an option
        *args: Any,
        address: str,
        timeout_s: float,
        tls: bool,
        ca: str,
        certificate: str,
        private_key: str,
        server_name: str,
        **kwargs: Any,
    ) -> Any:
        security = Security(
            tls=tls,
            ca=ca,
            certificate=certificate,
            private_key=private_key,
            server_name=server_name,
            api_key=os.environ.get("VICINAL_API_KEY", ""),
        )
        with Client(address, timeout_s=timeout_s, security=security) as client:
            return command(*args, client=client, **kwargs)

    for option in reversed(_OPTIONS):
        run = option(run)
    return run  # type: ignore[return-value]  # click keeps the shape of what it decorates
