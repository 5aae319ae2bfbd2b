"""Our own HTTP/2 under streams of frames that were damaged at random: it answers on, and nothing is a bug."""

import os
import random
from contextlib import closing, suppress

import pytest
from hpack import Encoder

from serving.http2.messages import framed
from tests.serving.wire_client import PATH, Wire, body, serving
from vicinal.http2 import frames
from vicinal.http2.frames import Kind, frame

COUNT = int(os.environ.get("VICINAL_HOSTILE_COUNT", "1500"))


def conversation(rng: random.Random) -> bytes:
    """Returns what a client might send, some of it out of place."""
    encoder, pieces = Encoder(), [frames.PREFACE, frames.settings({})]
    for number in range(1, 2 * rng.randrange(1, 8), 2):
        fields = [
            (":method", rng.choice(["POST", "POST", "GET"])),
            (":path", PATH + rng.choice(["Say", "Count", "Add", "Talk", "Sing"])),
            ("content-type", "application/grpc"),
            ("grpc-timeout", rng.choice(["1S", "1m", "", "99999999H", "\xff"])),
            ("grpc-encoding", rng.choice(["identity", "gzip", "x"])),
        ]
        message = rng.choice([b"quick", b"10 3", b"abort", rng.randbytes(rng.randrange(300))])
        pieces.append(frame(Kind.HEADERS, frames.END_HEADERS, number, encoder.encode(fields)))
        pieces.append(body(number, message, flags=rng.choice([0, 1])))
        pieces.append(
            frame(rng.randrange(12), rng.randrange(256), rng.choice([0, number]), rng.randbytes(rng.randrange(20)))
        )
    if rng.random() < 0.3:
        rng.shuffle(pieces)
    raw = bytearray(b"".join(pieces))
    for _ in range(rng.randrange(4)):
        place = rng.randrange(len(frames.PREFACE), len(raw))
        raw[place] = rng.randrange(256)
    return bytes(raw)


@pytest.mark.timeout(7200)
def test_damaged_frames_hurt_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(7)
    with serving() as (_, port, _):
        for round_ in range(COUNT // 5):
            with closing(Wire(port, greet=False)) as wire:
                raw = conversation(rng)
                for start in range(0, len(raw), size := rng.choice([7, 100, 100_000])):
                    wire.send_anyway([raw[start : start + size]])
                if round_ % 10 == 0:
                    with suppress(ConnectionError):
                        wire.rests(0.01)
        with closing(Wire(port)) as good:
            good.send(good.head(1), body(1, b"quick and well"))
            assert good.reply(1)[0] == framed(b"quick and well")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
