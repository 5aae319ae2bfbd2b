"""What the clients return: plain frozen dataclasses with numpy arrays."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from vicinal.codec import Scalar
from vicinal.errors import VicinalError
from vicinal.types import F32Array, Metric, SnapshotRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One image of the corpus, as the snapshot knows it."""

    item_id: str
    """Stable id, unique in the snapshot."""
    digest: str
    """SHA-256 of the encoded image, 64 lower-case hexadecimal digits."""
    source: str
    """Corpus it was read from."""
    path: str
    """Path within the corpus."""
    added_at: datetime
    """When it was first embedded, UTC."""
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    """Typed columns of the corpus."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a search was answered."""

    strategy: str
    """``index``, ``exact``, ``gather`` or ``overfetch``."""
    effort: int
    """Effort used; 0 where the strategy has none."""
    expected_recall: float
    """Recall measured for that effort when the snapshot was built; 0 when not measured."""
    bridged: bool
    """Whether the query was mapped from another encoder's space."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The neighbors of one query, best first."""

    item_ids: list[str]
    """Ids of the neighbors; fewer than asked for when fewer items match."""
    scores: F32Array
    """Their scores, float32, shape (K,); larger is closer."""
    snapshot: SnapshotRef
    """The snapshot that answered."""
    plan: Plan
    """How it was answered."""
    items: list[Item] = field(default_factory=list)
    """The items themselves when they were asked for, parallel to ``item_ids``."""
    next_page_token: str = ""
    """Gives the next page; empty on the last."""

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return zip(self.item_ids, self.scores.tolist(), strict=True)

    def __len__(self) -> int:
        return len(self.item_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSearchResult:
    """The neighbors of many queries, in their order; one that was wrong raises its error when it is taken."""

    results: Sequence[SearchResult | VicinalError]
    """A result or an error for each query; each is decoded when it is taken."""
    errors: dict[int, VicinalError]
    """The errors, by the position of their query."""
    snapshot: SnapshotRef
    """The snapshot that answered all of them."""
    plan: Plan
    """How they were answered."""

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, place: int) -> SearchResult:
        result = self.results[place]
        if isinstance(result, VicinalError):
            raise result
        return result

    def __iter__(self) -> Iterator[SearchResult]:
        return (self[place] for place in range(len(self)))


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedResult:
    """The embeddings of images."""

    vectors: F32Array
    """float32, shape (images, D), in the order of the request; rows of undecodable images are NaN."""
    digests: list[str]
    """SHA-256 of each image."""
    errors: dict[int, VicinalError]
    """What was wrong with an image, by its position."""
    snapshot: SnapshotRef
    """The snapshot whose encoder was used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One measured point of a snapshot's effort curve."""

    effort: int
    """efSearch or nprobe; 0 where the kind has none."""
    recall: float
    """Mean recall of the 10 nearest neighbors against exact search."""
    p50_s: float
    """Median latency of a query on the building machine, seconds."""
    p99_s: float
    """99th percentile of it, seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One immutable, searchable build of the index."""

    name: str
    """Such as ``snapshots/000007``."""
    fingerprint: str
    """Embeddings compare only within one fingerprint."""
    metric: Metric
    """Metric of its scores."""
    dimension: int
    """Dimension of its embeddings."""
    item_count: int
    """Items in it."""
    kind: str
    """Kind of index."""
    create_time: datetime
    """When it was built, UTC."""
    size_bytes: int
    """Bytes of its files."""
    parent: str
    """Snapshot it was refreshed from; may be empty."""
    active: bool
    """Whether it is the active one."""
    curve: list[CurvePoint]
    """Recall and latency by effort."""
    default_effort: int
    """Effort used by default; 0 where the kind has none."""
    encoder: str
    """Encoder it carries; empty when it has none."""
    live_item_count: int = 0
    """Items that can be found now, with what was upserted and without what was deleted; of the active one alone."""
    pending_item_count: int = 0
    """Items changed since it was built, which the next refresh folds in; of the active one alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotPage:
    """Some snapshots, newest first."""

    snapshots: list[Snapshot]
    """The snapshots."""
    next_page_token: str
    """Empty on the last page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemResult:
    """One item, with its embedding when it was asked for."""

    item: Item
    """The item."""
    vector: F32Array | None
    """float32, shape (D,)."""
    snapshot: SnapshotRef
    """The snapshot that answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemPage:
    """Some items, in the order of the snapshot."""

    items: list[Item]
    """The items."""
    next_page_token: str
    """Empty on the last page."""
    snapshot: SnapshotRef
    """The snapshot that answered."""
