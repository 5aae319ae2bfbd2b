"""What is being served: one generation at a time, swapped by one assignment.

A request takes its generation once and keeps it to its end. A new one is opened, checked and warmed
in a thread beside the old one; only then does the pointer move. A load that fails changes nothing.
The files of a generation are held, so that no collection removes them, until the last request
that uses it has ended. What UpsertItems and DeleteItems changed lies over each of them: a change
makes a new generation of the same snapshot.
"""

import asyncio
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from index.publish import activate
from serving.generation import Generation, LoadEncoder, load_encoder, open_generation, renumber
from serving.tails import Tails
from serving.together import Together
from vicinal.errors import FailedPreconditionError, InternalError, NoActiveSnapshotError, VicinalError
from vicinal.store import Store

T = TypeVar("T")
Listener = Callable[[Generation], None]
logger = logging.getLogger(__name__)
_RETRY_FAILED_S = 30.0


class Generations:
    """The generation in service, and a few pinned older ones.

    Args:
        store: the workspace.
        verify: check the SHA-256 of every file before serving it.
        pinned_count: snapshots besides the active one to keep open, at least 1.
        fixed: serve this snapshot whatever the alias says, such as ``snapshots/000007``; empty follows the alias.
        together: waits until the other workers are ready too; default: there are none.
        encoder_loader: opens the encoder inside a snapshot.
    """

    def __init__(
        self,
        store: Store,
        *,
        verify: bool = True,
        pinned_count: int = 2,
        fixed: str = "",
        together: Together | None = None,
        encoder_loader: LoadEncoder = load_encoder,
    ) -> None:
        self.store = store
        self.fixed = fixed
        self.tails = Tails(store)
        """What came after the snapshots."""
        self.listeners: list[Listener] = []
        """Called in the event loop after each swap."""
        self.last_error: VicinalError | None = None
        """Why the newest activation could not be followed; None when it was."""
        self._verify = verify
        self._pinned_count = pinned_count
        self._load_encoder = encoder_loader
        self._together = together
        self._current: Generation | None = None
        self._pinned: OrderedDict[str, Generation] = OrderedDict()
        self._lock = asyncio.Lock()
        self._loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generation")
        self._seen: tuple[int, int] | None = None
        self._failed: tuple[int, float] = (0, 0.0)

    def current(self) -> Generation:
        """Returns the generation in service; takes no lock.

        Raises:
            NoActiveSnapshotError: nothing has been published yet.
        """
        if self._current is None:
            raise self.last_error or NoActiveSnapshotError("no snapshot is active; run: vicinal publish")
        return self._current

    async def take(self, name: str = "") -> Generation:
        """Returns the generation of a snapshot, opening it if it is not open.

        Args:
            name: ``snapshots/000007``, or empty for the one in service.

        Raises:
            NoActiveSnapshotError: nothing has been published yet.
            SnapshotNotFoundError: no such snapshot.
            CorruptArtifactError: it is damaged.
        """
        if not name:
            return self.current()
        if self._current is not None and self._current.ref.name == name:
            return self._current
        async with self._lock:
            pinned, current = await self._open_pinned(name), self._current
            # Only the changes of the space that is served are followed all the time.
            followed = current is not None and current.ref.fingerprint == pinned.ref.fingerprint
            if not followed or self.tails.lags(pinned):
                pinned = await self._dress(pinned)
                self._keep(pinned)
            return pinned

    async def follow(self) -> Generation | None:
        """Serves what the alias names, if it is newer than what is served.

        Returns:
            The generation in service, None when there is none.

        Raises:
            VicinalError: the alias or its snapshot could not be read; what is served has not changed.
        """
        async with self._lock:
            return await self._follow()

    async def watch(self, *, poll_s: float) -> None:
        """Follows the alias until cancelled.

        Args:
            poll_s: seconds between looks, above 0; a look is one stat call.
        """
        while not self.fixed:
            if self._alias_moved() or self._may_retry():
                try:
                    await self.follow()
                except NoActiveSnapshotError:
                    pass
                except VicinalError as error:
                    logger.error("cannot serve the new snapshot, the old one stays: %s", error)  # noqa: TRY400 - said
                except Exception:
                    logger.exception("cannot serve the new snapshot, the old one stays")
            await asyncio.sleep(poll_s)

    async def watch_changes(self, *, poll_s: float) -> None:
        """Takes in what other processes changed until cancelled.

        Args:
            poll_s: seconds between looks, above 0; a look is a list of a small folder and a stat call.
        """
        failed_s = -_RETRY_FAILED_S
        while True:
            await asyncio.sleep(poll_s)
            try:
                if self._current is not None and await self.tails.has_news(self._current):
                    await self.catch_up()
            except Exception:
                if time.monotonic() - failed_s >= _RETRY_FAILED_S:
                    failed_s = time.monotonic()
                    logger.exception("cannot take in what other processes changed; what is served stays as it is")

    async def catch_up(self) -> Generation:
        """Lays every change that is on disk over what is served; returns it."""
        while True:
            current = self.current()
            new = await self._dress(current)
            if self._current is current:
                self._current = new
                return new

    async def activate(self, name: str) -> tuple[Generation, Generation | None]:
        """Opens a snapshot, moves the alias to it, and serves it.

        Returns:
            The generation in service now and the one before it.

        Raises:
            SnapshotNotFoundError: no such snapshot.
            CorruptArtifactError: it is damaged; nothing has changed.
            FailedPreconditionError: this server serves one fixed snapshot.
        """
        if self.fixed:
            raise FailedPreconditionError(
                f"this server was started on {self.fixed} alone; restart it without --snapshot to activate others"
            )
        async with self._lock:
            previous = self._current
            snapshot = (await self._open_pinned(name)).base
            await self._in_loader(lambda: activate(self.store, snapshot))
            current = await self._follow()
            assert current is not None
            if self._together is not None:
                await self._together.all_swapped(current.ref.generation)
            return current, previous

    def close(self) -> None:
        """Lets go of every generation; requests in flight keep theirs."""
        self._current = None
        self._pinned.clear()
        self._loader.shutdown(wait=False, cancel_futures=True)
        self.tails.close()

    async def _dress(self, generation: Generation) -> Generation:
        others = (one for one in (self._current, *self._pinned.values()) if one is not None)
        return await self.tails.dress(generation, beside=others)

    async def _dress_up(self, new: Generation) -> Generation:
        # Nobody who saw a change of items may see them without it after the swap.
        while True:
            new, current = await self._dress(new), self._current
            seen = current is not None and current.ref.fingerprint == new.ref.fingerprint
            if not seen or current is None or current.ref.delta_number <= new.ref.delta_number:
                return new

    async def _follow(self) -> Generation | None:
        current = self._current
        if self.fixed:
            if current is None:
                path = self.store.path("snapshots", self.fixed)
                self._swap(await self._dress(await self._open(f"snapshots/{path.name}", None)))
            return self._current
        active = await self._in_loader(self.store.active)
        if current is not None and active.generation <= current.ref.generation:
            return current
        try:
            if current is not None and current.ref.name == f"snapshots/{active.snapshot}":
                new = renumber(current, active.generation)
            else:
                new = renumber(await self._open(f"snapshots/{active.snapshot}", active.generation), active.generation)
            new = await self._dress(new)
            if self._together is not None:
                await self._together.ready(active.generation)
            new = await self._dress_up(new)
        except Exception as error:
            if self._together is not None:
                self._together.failed(active.generation)
            self._failed = (active.generation, time.monotonic())
            self.last_error = error if isinstance(error, VicinalError) else InternalError("a snapshot failed to open")
            raise
        self._failed, self.last_error = (0, 0.0), None
        self._swap(new)
        return new

    def _swap(self, new: Generation) -> None:
        if self._together is not None:
            self._together.swapped(new.ref)
        old, self._current = self._current, new
        self._pinned.pop(new.ref.name, None)
        if old is not None and old.ref.name != new.ref.name:
            self._keep(old)
        self.tails.release([new, *self._pinned.values()])
        logger.info("serving %s, generation %d", new.ref.name, new.ref.generation)
        for listener in self.listeners:
            listener(new)

    async def _open_pinned(self, name: str) -> Generation:
        current = self._current
        if current is not None and current.ref.name == name:
            return current
        if name in self._pinned:
            self._pinned.move_to_end(name)
            return self._pinned[name]
        path = self.store.path("snapshots", name)
        canonical = f"snapshots/{path.name}"
        if canonical != name:
            return await self._open_pinned(canonical)
        generation = await self._dress(await self._open(name, None))
        self._keep(generation)
        return generation

    def _keep(self, generation: Generation) -> None:
        self._pinned[generation.ref.name] = generation
        while len(self._pinned) > self._pinned_count:
            self._pinned.popitem(last=False)

    async def _open(self, name: str, number: int | None) -> Generation:
        if name in self._pinned:
            return self._pinned[name]
        known = [g for g in (self._current, *self._pinned.values()) if g is not None]
        return await self._in_loader(
            lambda: open_generation(
                self.store,
                name,
                number=number,
                verify=self._verify,
                known=known,
                encoder_loader=self._load_encoder,
            )
        )

    def _alias_moved(self) -> bool:
        try:
            status = os.stat(self.store.root / "active.json")  # noqa: PTH116 - ten times a second
        except OSError:
            return False
        seen = (status.st_mtime_ns, status.st_ino)
        moved, self._seen = seen != self._seen, seen
        return moved

    def _may_retry(self) -> bool:
        number, failed_s = self._failed
        return bool(number) and time.monotonic() - failed_s > _RETRY_FAILED_S

    async def _in_loader(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._loader, function)
