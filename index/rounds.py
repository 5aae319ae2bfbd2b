"""Does something alone, and again and again on a fixed beat, until it is told to end."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from vicinal.errors import BusyError, VicinalError
from vicinal.locks import locked
from vicinal.store import Store


def run_rounds(once: Callable[[], None], *, period_s: float, failed: Callable[[str], None]) -> NoReturn:
    """Calls ``once`` at the beats of a clock that began with the first call; a round that fails does not end them.

    Args:
        once: one round.
        period_s: seconds from beat to beat, above 0; beats that a long round runs over are left out.
        failed: told why a round failed.
    """
    first_s = time.monotonic()
    while True:
        try:
            once()
        except VicinalError as error:
            failed(error.message)
        except (OSError, RuntimeError, ValueError, ArithmeticError, LookupError, MemoryError) as error:
            # Of many rounds one may meet a bug or a lack of memory; what is served has not changed.
            failed(f"internal error: {type(error).__name__}: {error}")
        time.sleep(pause_s(first_s, time.monotonic(), period_s=period_s))


@contextlib.contextmanager
def alone(store: Store) -> Iterator[None]:
    """Holds the one place of a refresh of a workspace; it is free again when the holder ends, however it ends.

    Raises:
        BusyError: another refresh is under way.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(store.root / "work" / "refresh.lock", shared=False, wait=False))
        except BusyError as error:
            raise BusyError(f"another refresh of {store.root} is under way; wait for it to end") from error
        yield


def pause_s(first_s: float, now_s: float, *, period_s: float) -> float:
    """Returns the seconds from now to the next beat, above 0.

    Args:
        first_s: when the beats began.
        now_s: the time now, not before that.
        period_s: seconds from beat to beat.
    """
    beats = math.floor((now_s - first_s) / period_s) + 1
    return first_s + beats * period_s - now_s


@contextlib.contextmanager
def ended_by_sigterm(code: int) -> Iterator[None]:
    """Lets SIGTERM end this process in order: what is under way is given up, and what it wrote is removed.

    Args:
        code: exit code then.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> NoReturn:
        del number, frame
        raise SystemExit(code)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
