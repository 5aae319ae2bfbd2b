"""The access log: one JSON line a call on standard error, when it is asked for."""

import json
import sys
import time
from typing import TextIO

from serving.context import Call
from vicinal.errors import Code


class AccessLog:
    """Writes a line for every call.

    Args:
        stream: where to; default standard error.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    def observe(self, call: Call, code: int, seconds: float) -> None:
        """Writes the line of a call."""
        line = {
            "time": round(time.time(), 3),
            "method": call.method,
            "code": Code(code).name if code else "OK",
            "ms": round(1000 * seconds, 3),
            "client": call.client,
            "request_id": call.request_id,
            **call.notes,
        }
        self._stream.write(json.dumps(line, separators=(",", ":")) + "\n")
