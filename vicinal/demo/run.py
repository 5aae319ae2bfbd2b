"""The demo: pretrain, embed, build, publish, serve, query, classify, refresh under load, report."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vicinal.client import Client, SupportExample
from vicinal.corpus import CorpusItem, open_corpus
from vicinal.demo.images import CLASSES, Images
from vicinal.demo.steps import Steps
from vicinal.demo.traffic import NEIGHBOR_COUNT, Reply, Traffic, count_wrong
from vicinal.errors import VicinalError
from vicinal.modalities.image.decode import decode
from vicinal.modalities.image.preview import SheetRow, Tile, sheet
from vicinal.types import F32Array, I64Array

_BATCH = 250
_SWAP_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of everything the demo uses."""

    train_count: int
    """Images that are pretrained on and indexed first."""
    test_count: int
    """New images that the refresh takes in; never trained on."""
    budget: tuple[str, str]
    """Budget of the pretraining; steps where every run should be the same run."""
    scratch_draws: int
    """Draws of 10 labels a class for the few-shot comparison."""
    query_count: int
    """Test images that are asked for over gRPC."""


SIZES = {
    "full": Size(train_count=60_000, test_count=10_000, budget=("--minutes", "2"), scratch_draws=3, query_count=2_000),
    "small": Size(train_count=3_000, test_count=500, budget=("--steps", "40"), scratch_draws=1, query_count=200),
}


@dataclass(slots=True, kw_only=True)
class Findings:
    """Everything the report says."""

    pretrain: dict[str, Any] = field(default_factory=dict)
    encoder: dict[str, Any] = field(default_factory=dict)
    embed: dict[str, Any] = field(default_factory=dict)
    build: dict[str, Any] = field(default_factory=dict)
    search: dict[str, Any] = field(default_factory=dict)
    classify: dict[str, Any] = field(default_factory=dict)
    refresh: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Labelled:
    """Images of one corpus with their labels, read for asking and checking."""

    contents: list[bytes]
    items: list[CorpusItem]

    @property
    def labels(self) -> list[str]:
        return [class_name(item.label) for item in self.items]


def class_name(label: str | None) -> str:
    """Returns the name of a class of Fashion-MNIST for its number."""
    return CLASSES[int(label)] if label is not None and label.isdecimal() else str(label)


def run(steps: Steps, images: Images, size: Size, *, seed: int, folder: Path) -> Findings:
    """Runs the demo on an empty workspace.

    Args:
        steps: runs the verbs on the workspace.
        images: Fashion-MNIST.
        size: how much of it to use.
        seed: seed of the pretraining and of every draw.
        folder: where the sheet and the sample images go.

    Raises:
        VicinalError: a step failed; its message says which and why.
    """
    found = Findings()
    old = f"{images.folder}?split=train&limit={size.train_count}"
    new = f"{images.folder}?split=test&limit={size.test_count}"
    found.pretrain = steps.run("pretrain", "pretrain", old, *size.budget, "--seed", str(seed))
    found.embed = steps.run("embed", "embed", old)
    found.build = steps.run("build", "build")
    steps.run("publish", "publish")
    queries = _read(new, count=size.query_count)
    with steps.server() as address:
        asked = time.perf_counter()
        x_QD = _embed(address, queries.contents)
        found.search = _search(address, x_QD)
        _draw_sheet(address, queries, images, size, path=folder / "neighbors.png")
        _write_samples(queries, folder / "samples")
        steps.seconds["query"] = time.perf_counter() - asked
        asked = time.perf_counter()
        found.classify = _classify(address, queries, old, seed=seed)
        steps.seconds["classify"] = time.perf_counter() - asked
        found.refresh = _refresh_under_load(steps, address, x_QD[:256], new)
    words = ["--train", old, "--test", new, "--shots", "10", "--draws", str(size.scratch_draws), "--seed", str(seed)]
    found.encoder = steps.run("evaluate-encoder", "evaluate-encoder", *words)
    found.seconds = dict(steps.seconds)
    return found


def _read(spec: str, *, count: int) -> _Labelled:
    with open_corpus(f"{spec.partition('&limit=')[0]}&limit={count}") as corpus:
        items = list(corpus)
        return _Labelled(contents=[corpus.read(item) for item in items], items=items)


def _embed(address: str, contents: Sequence[bytes]) -> F32Array:
    with Client(address) as client:
        rows = [client.embed(contents[i : i + _BATCH]).vectors for i in range(0, len(contents), _BATCH)]
    return np.concatenate(rows)


def _search(address: str, x_QD: F32Array) -> dict[str, Any]:
    """Measures what one caller sees: latency of single queries, and recall against exact search."""
    latencies, hits = [], 0
    with Client(address) as client:
        exact = client.batch_search(x_QD, neighbor_count=NEIGHBOR_COUNT, target_recall=1.0)
        for x_D, truth in zip(x_QD, exact.results, strict=True):
            if isinstance(truth, VicinalError):
                raise truth
            started = time.perf_counter()
            reply = client.search(x_D, neighbor_count=NEIGHBOR_COUNT)
            latencies.append(time.perf_counter() - started)
            # Ties at the end count as found: whatever is as close as the last true neighbor is one.
            hits += int(np.sum(np.asarray(reply.scores) >= truth.scores[-1] - 1e-6))
    p50, p99 = np.percentile(latencies, [50, 99]) * 1e3
    recall = hits / (len(x_QD) * NEIGHBOR_COUNT)
    return {"recall": recall, "p50_ms": float(p50), "p99_ms": float(p99), "query_count": len(x_QD)}


def _draw_sheet(address: str, queries: _Labelled, images: Images, size: Size, *, path: Path) -> None:
    firsts = {label: number for number, label in reversed(list(enumerate(queries.labels)))}
    chosen = sorted(firsts.values())
    rows = []
    source = f"{images.folder}?split=train&limit={size.train_count}"
    with Client(address) as client, open_corpus(source) as corpus:
        by_id = {item.item_id: item for item in corpus}
        for number in chosen:
            reply = client.search(queries.contents[number], neighbor_count=12)
            label = queries.labels[number]
            tiles = [_tile(by_id[item_id], corpus.read(by_id[item_id]), label) for item_id in reply.item_ids]
            rows.append(SheetRow(query=Tile(image=decode(queries.contents[number]), caption=label), neighbors=tiles))
    sheet(rows, path, title="Test images (left) and their nearest training images; green: same class", tile_size=64)


def _tile(item: CorpusItem, content: bytes, wanted: str) -> Tile:
    label = class_name(item.label)
    return Tile(image=decode(content), caption=label, good=label == wanted)


def _write_samples(queries: _Labelled, folder: Path) -> None:
    from PIL import Image  # noqa: PLC0415  (only here)

    folder.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(queries.contents[:5]):
        Image.fromarray(decode(content, channels=3)).save(folder / f"{number}-{queries.labels[number]}.png")


def _classify(address: str, queries: _Labelled, old: str, *, seed: int) -> dict[str, Any]:
    """Classifies images over gRPC by 10 labelled items a class, given by their ids."""
    random = np.random.default_rng(seed)
    with open_corpus(old) as corpus:
        pairs = [(item.item_id, class_name(item.label)) for item in corpus]
    support = []
    for label in sorted({label for _, label in pairs}):
        of_class = [item_id for item_id, name in pairs if name == label]
        chosen: I64Array = random.permutation(len(of_class))[:10]
        support += [SupportExample(query=of_class[i], label=label) for i in chosen]
    answers: list[str] = []
    classifier = ""
    started = time.perf_counter()
    with Client(address) as client:
        for i in range(0, len(queries.contents), _BATCH):
            reply = client.classify(queries.contents[i : i + _BATCH], support=support)
            classifier = reply.classifier.name
            # An image that could not be classified is a wrong answer.
            answers += ["" if isinstance(result, VicinalError) else result.label for result in reply.results]
    return {
        "accuracy": float(np.mean(np.array(answers) == np.array(queries.labels))),
        "classifier": classifier,
        "image_count": len(queries.contents),
        "support_count": len(support),
        "images_per_second": len(queries.contents) / (time.perf_counter() - started),
    }


def _refresh_under_load(steps: Steps, address: str, x_QD: F32Array, new: str) -> dict[str, Any]:
    with Traffic(address, x_QD) as traffic:
        time.sleep(1.0)
        result = steps.run("refresh", "refresh", new)
        swapped = traffic.wait_for(result["snapshot"], timeout_s=_SWAP_TIMEOUT_S)
        time.sleep(1.0)
    names = sorted({reply.snapshot for reply in traffic.replies})
    wrong = 0
    for name in names:
        with steps.server("--snapshot", name) as alone:
            wrong += count_wrong(traffic.replies, snapshot=name, address=alone, x_QD=x_QD)
    return {
        **result,
        "swapped": swapped,
        "requests": len(traffic.replies) + len(traffic.failures),
        "failed": len(traffic.failures),
        "failures": sorted(set(traffic.failures))[:5],
        "wrong": wrong,
        "out_of_order": _out_of_order(traffic.replies),
        "replies_by_snapshot": {name: sum(r.snapshot == name for r in traffic.replies) for name in names},
        "p99_ms": float(np.percentile([r.latency_s for r in traffic.replies], 99) * 1e3),
    }


def _out_of_order(replies: Sequence[Reply]) -> int:
    return sum(after.generation < before.generation for before, after in itertools.pairwise(replies))
