"""One call of the asyncio client over plain text: its request, its reply, and how it may fail."""

import asyncio
from dataclasses import dataclass, field


class LostCallError(Exception):
    """A call that ended without a status of the server.

    Args:
        code: status code of gRPC that says best what happened.
        details: what happened.
    """

    def __init__(self, code: int, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


@dataclass(slots=True)
class Exchange:
    """One request and its reply."""

    done: "asyncio.Future[Exchange]"
    window: int
    outgoing: bytes = b""
    """What waits for the server's window."""
    data: bytearray = field(default_factory=bytearray)
    """What has come of the reply."""
    fields: dict[str, str] = field(default_factory=dict)
    """Headers and trailers."""
