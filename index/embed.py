"""The embed job: corpora in, an embeddings artifact out; killed at any moment it goes on where it was.

1. The corpora are scanned into a plan on disk, cut into shards.
2. Each shard is read, hashed, decoded ahead and embedded; a content that was seen before, in this
   job or in the base, is not embedded again. A finished shard is a file put in place by rename.
3. When all shards are there they are merged into one artifact, which is committed to the store.

Every step depends only on what is on disk, so a resumed job ends byte for byte like one that was
never killed. On several processes each rank takes its own shards; see ``index.embed_launch``.
"""

import os
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from index.embed_launch import Rank, hold_rank, rank_of, wait_for_shards
from index.embed_merge import Base, Merger, shard_path
from index.embed_plan import Plan, make_plan
from index.embed_rank import RankJob, Totals
from index.embed_salvage import Salvage
from vicinal.artifact import canonical_digest, storage_guard
from vicinal.corpus import Corpus, open_corpora, parse_spec
from vicinal.embeddings import Embeddings, EmbeddingsInfo, finish, write_quarantine
from vicinal.encoder import Encoder
from vicinal.errors import FingerprintMismatchError, InvalidArgumentError, InvalidCorpusError
from vicinal.store import Store
from vicinal.types import JsonObject

_BATCH_PIXELS = 1 << 22
_LEAST_BATCH = 16
_TRASH = "trash-"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedOptions:
    """How an embed job runs; none of this changes what an image's embedding means."""

    batch_size: int = 0
    """Images of one forward pass; 0 chooses by their size."""
    shard_size: int = 2048
    """Items committed together: at most this many are embedded again after a crash."""
    workers: int = 0
    """Threads that read and decode; 0 takes the processors, and more for what is far away."""
    device: str = "auto"
    """Where the encoder runs, as for ``Encoder.load``; ``auto`` takes the rank's own GPU."""
    trust_stamps: bool = True
    """Take an item of the base as unchanged when its size and times are, without reading it."""
    now: datetime | None = None
    """The added_at of new items; the current time by default."""
    wait_s: float = 600.0
    """How long rank 0 waits for other ranks that make no progress, in seconds."""

    def __post_init__(self) -> None:
        if self.batch_size < 0 or self.workers < 0 or self.shard_size < 1:
            raise InvalidArgumentError(
                f"batch_size {self.batch_size}, workers {self.workers} and shard_size {self.shard_size}: "
                "wanted none below 0, and a shard_size of at least 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedReport:
    """What an embed job did."""

    version: str | None
    """Version of the embeddings in the store; None on the ranks that leave the merge to rank 0."""
    count: int = 0
    """Items with an embedding."""
    new_count: int = 0
    """Items whose content the base does not have."""
    reused_count: int = 0
    """Items whose embedding came from the base."""
    unique_count: int = 0
    """Different contents among the items."""
    quarantined_count: int = 0
    """Entries of the corpora that could not be embedded."""
    embedded_count: int = 0
    """Images that went through the encoder in this run, on this rank."""
    seconds: float = 0.0
    """Wall time of this run, in seconds."""


def embed(
    store: Store,
    corpora: Sequence[str],
    *,
    encoder: str = "latest",
    base: str | None = None,
    options: EmbedOptions | None = None,
    progress: Callable[[Totals], None] | None = None,
) -> EmbedReport:
    """Embeds corpora into a new version of the store's embeddings.

    Args:
        store: the workspace.
        corpora: specs, as for ``open_corpus``.
        encoder: version of the encoder.
        base: version of earlier embeddings of the same encoder, whose vectors are reused by
            digest; ``auto`` takes the newest of that encoder, if there is one.
        options: how the job runs.
        progress: called often, in this thread; what it raises ends the run, which can be resumed.

    Raises:
        ArtifactNotFoundError: no such encoder or embeddings.
        FingerprintMismatchError: the base was made by another encoder.
        InvalidCorpusError: a corpus cannot be read, or nothing in it could be embedded.
        FailedPreconditionError: another rank ended before its shards were there.
        BusyError: the same job is running.
        StorageError: the disk is full or failed; what was finished is kept.
    """
    started = time.perf_counter()
    rank = rank_of()
    with ExitStack() as stack:
        opened = [stack.enter_context(corpus) for corpus in open_corpora(corpora)]
        job = _Job(store, opened, encoder=encoder, base=base, options=options or EmbedOptions(), rank=rank)
        stack.enter_context(hold_rank(job.directory, rank))
        return job.run(progress or (lambda _: None), started=started)


class _Job:
    """One run of an embed job on one rank."""

    def __init__(
        self,
        store: Store,
        corpora: Sequence[Corpus],
        *,
        encoder: str,
        base: str | None,
        options: EmbedOptions,
        rank: Rank,
    ) -> None:
        self._store = store
        self._corpora = corpora
        self._options = options
        self._rank = rank
        path = store.path("encoders", encoder)
        self._encoder_version = path.name
        self._model = Encoder.load(path, device=_device(options.device, rank))
        self._base = _open_base(store, base, fingerprint=self._model.fingerprint)
        self._base_version = None if self._base is None else self._base.embeddings.version
        self._batch_size = options.batch_size or _batch_size(self._model)
        self._key = self._make_key()
        self.directory = store.root / "work" / f"embed-{self._key[:16]}"
        with storage_guard(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)

    def _make_key(self) -> str:
        """Returns what makes two runs the same job: all that the bytes of the result depend on."""
        specs = [parse_spec(corpus.spec) for corpus in self._corpora]
        return canonical_digest(
            {
                "corpora": [[spec.name, spec.kind, spec.location, dict(spec.options)] for spec in specs],
                "encoder": self._model.fingerprint,
                "base": self._base_version,
                "batch_size": self._batch_size,
                "shard_size": self._options.shard_size,
                "rank_count": self._rank.count,
                "device": self._model.device.type,
            }
        )

    def run(self, progress: Callable[[Totals], None], *, started: float) -> EmbedReport:
        options = self._options
        place = self.directory / f"plan-{self._rank.number}"
        plan, kept = make_plan(place, self._corpora, shard_size=options.shard_size, now=options.now)
        if kept and (done := self._committed(plan)) is not None:
            _clean(self.directory)
            return self._report(done, embedded=0, started=started)
        shards = self.directory / f"shards-{plan.facts.digest[:16]}"
        with storage_guard(shards):
            shards.mkdir(exist_ok=True)
        salvage = Salvage(self.directory, current=shards.name, dimension=self._model.dimension)
        job = RankJob(
            plan,
            shards,
            corpora=self._corpora,
            model=self._model,
            base=self._base,
            rank=self._rank,
            salvage=salvage,
        )
        totals = job.run(
            batch_size=self._batch_size,
            workers=options.workers or self._workers(),
            trust_stamps=options.trust_stamps,
            progress=progress,
        )
        if self._rank.number:
            return EmbedReport(version=None, embedded_count=totals.embedded, seconds=time.perf_counter() - started)
        wait_for_shards(
            [shard_path(shards, number) for number in range(plan.shard_count)],
            self.directory,
            self._rank,
            wait_s=options.wait_s,
        )
        version = self._commit(plan, shards)
        _clean(self.directory)
        return self._report(version, embedded=totals.embedded, started=started)

    def _workers(self) -> int:
        return max([len(os.sched_getaffinity(0)), *(corpus.concurrency for corpus in self._corpora)])

    def _commit(self, plan: Plan, shards: Path) -> str:
        merger = Merger(plan, shards, corpora=self._corpora, base=self._base, dimension=self._model.dimension)
        with self._store.stage("embeddings") as staging:
            merged = merger.write(staging.path)
            if not merged.count:
                first = next(merger.quarantine(), None)
                why = f"; the first is {first.item_id!r}: {first.message}" if first is not None else ""
                raise InvalidCorpusError(f"nothing in the corpora could be embedded{why}")
            reasons = write_quarantine(staging.path, merger.quarantine())
            details: JsonObject = {
                "job": {"key": self._key, "plan": plan.facts.token},
                "base": self._base_version,
                "unique_count": merged.unique_count,
                "reused_count": merged.reused_count,
                "batch_size": self._batch_size,
                "device": self._model.device.type,
            }
            info = EmbeddingsInfo(
                dimension=self._model.dimension,
                metric=self._model.metric,
                fingerprint=self._model.fingerprint,
                encoder=self._encoder_version,
                corpora=tuple(corpus.spec for corpus in self._corpora),
                details=details,
            )
            finish(staging.path, info=info, count=merged.count, reasons=reasons)
            return staging.commit()

    def _committed(self, plan: Plan) -> str | None:
        """Returns the version that this very plan was committed as, where the run died right after."""
        job = {"key": self._key, "plan": plan.facts.token}
        for version in reversed(self._store.versions("embeddings")[-3:]):
            embeddings = Embeddings.open(self._store.path("embeddings", version), verify=False)
            if embeddings.manifest.body.get("job") == job:
                return version
        return None

    def _report(self, version: str, *, embedded: int, started: float) -> EmbedReport:
        body = Embeddings.open(self._store.path("embeddings", version), verify=False).manifest.body
        return EmbedReport(
            version=version,
            count=body["count"],
            new_count=body["count"] - body["reused_count"],
            reused_count=body["reused_count"],
            unique_count=body["unique_count"],
            quarantined_count=body["quarantined_count"],
            embedded_count=embedded,
            seconds=time.perf_counter() - started,
        )


def _clean(directory: Path) -> None:
    """Removes a job's directory, at once for whoever looks, and what others left half removed."""
    with storage_guard(directory):
        directory.rename(directory.with_name(f"{_TRASH}{uuid.uuid4().hex}"))
    for trash in directory.parent.glob(f"{_TRASH}*"):
        shutil.rmtree(trash, ignore_errors=True)


def _open_base(store: Store, base: str | None, *, fingerprint: str) -> Base | None:
    if base is None:
        return None
    versions = reversed(store.versions("embeddings")) if base == "auto" else [base]
    for version in versions:
        path = store.path("embeddings", version)
        found = Embeddings.open(path, verify=False).fingerprint
        if found == fingerprint:
            return Base(Embeddings.open(path))
        if base != "auto":
            raise FingerprintMismatchError(
                f"embeddings {version} were made by an encoder with fingerprint {found[:12]}..., this one has "
                f"{fingerprint[:12]}...; embed all anew, without a base"
            )
    return None


def _device(device: str, rank: Rank) -> str:
    if device != "auto" or rank.count == 1:
        return device
    import torch  # noqa: PLC0415 - only ranks of several need to look for their own GPU

    return f"cuda:{rank.local}" if torch.cuda.is_available() else "cpu"


def _batch_size(model: Encoder) -> int:
    """Returns a batch that fills the device: on processors one that stays near their caches."""
    pixels = model.preprocessing.height * model.preprocessing.width
    fitting = 1 << max(_BATCH_PIXELS // pixels, 1).bit_length() - 1
    return max(_LEAST_BATCH, min(64 if model.device.type == "cpu" else 256, fitting))
