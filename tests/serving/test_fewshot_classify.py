"""Classify over a real server: inline support of every form, honest answers, one clear error each."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.serving.labelled_workspace import (
    CLASSES,
    add_snapshot,
    item_id,
    made_clusters,
    made_workspace,
    running_server,
)
from vicinal.client import AsyncClient, Client, SupportExample
from vicinal.client.fewshot import Classification
from vicinal.errors import (
    DimensionMismatchError,
    InvalidArgumentError,
    InvalidLabelError,
    InvalidVectorError,
    ItemNotFoundError,
    LabelSetNotFoundError,
    NoEncoderError,
    VicinalError,
)
from vicinal.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return made_workspace(tmp_path_factory.mktemp("classify") / "workspace")


@pytest.fixture(scope="module")
def client(store: Store) -> Iterator[Client]:
    with running_server(store) as address, Client(address) as client:
        yield client


def by_item(shots: int, *, start: int = 0) -> list[SupportExample]:
    return [SupportExample(query=item_id(i), label=CLASSES[i % 4]) for i in range(start, start + 4 * shots)]


def answers(results: list[Classification | VicinalError]) -> list[Classification]:
    assert not [one for one in results if isinstance(one, VicinalError)]
    return results  # type: ignore[return-value]


def test_items_vectors_and_item_queries_are_classified(client: Client, store: Store) -> None:
    x_ND, _ = made_clusters(400)
    found = client.classify([item_id(i) for i in range(100, 200)], support=by_item(10))
    same = client.classify(
        x_ND[100:200], support=[SupportExample(query=x_ND[i], label=CLASSES[i % 4]) for i in range(40)]
    )
    truth = [CLASSES[i % 4] for i in range(100, 200)]
    for result in (found, same):
        said = answers(result.results)
        assert np.mean([one.label == wanted for one, wanted in zip(said, truth, strict=True)]) > 0.97
        assert all(abs(sum(one.probabilities.values()) - 1) < 1e-4 for one in said)
        assert all(one.probability == max(one.probabilities.values()) for one in said)
        assert all(one.conformal_set[0] == one.label for one in said)
    assert [one.label for one in answers(found.results)] == [one.label for one in answers(same.results)]
    assert found.snapshot.name == "snapshots/000001"
    assert found.label_set_version == 0
    assert found.classifier.example_count == 40
    assert found.classifier.class_count == 4
    assert found.classifier.accuracy is not None
    low, high = found.classifier.accuracy_interval
    assert 0 <= low < found.classifier.accuracy <= high <= 1


def test_evidence_names_the_nearest_supporting_items(client: Client) -> None:
    x_ND, _ = made_clusters(400)
    found = client.classify([item_id(50)], support=by_item(10), evidence_count=5)
    unit_ND = x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)
    order = np.argsort(-unit_ND[:40] @ unit_ND[50])[:5]
    (one,) = answers(found.results)
    assert [shown.item_id for shown in one.evidence] == [item_id(i) for i in order]
    assert [shown.example for shown in one.evidence] == order.tolist()
    assert [shown.label for shown in one.evidence] == [CLASSES[i % 4] for i in order]
    np.testing.assert_allclose([shown.score for shown in one.evidence], unit_ND[order] @ unit_ND[50], atol=1e-5)
    assert not answers(client.classify([item_id(50)], support=by_item(1), evidence_count=0).results)[0].evidence


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_conformal_sets_hold_the_truth_as_often_as_asked(level: float) -> None:
    from serving.fewshot.model import fit, make_support

    held, size = [], []
    for seed in range(12):
        x_ND, y_N = made_clusters(1000, noise=4.0, seed=seed)
        model = fit(make_support(x_ND[:60], [CLASSES[y] for y in y_N[:60]]))
        order = [CLASSES.index(name) for name in model.support.classes]
        said = model.predict(x_ND[60:], level=level)
        held.append(said.member_QC[np.arange(940), np.argsort(order)[y_N[60:]]].mean())
        size.append(said.member_QC.sum(axis=1).mean())
    # Accuracy is about 0.5; the most probable label is always in, so the lowest level is overshot.
    assert level - 0.03 < np.mean(held) < level + (0.1 if level == 0.5 else 0.05)
    assert 1 <= np.mean(size) < 4


def test_a_support_too_small_to_promise_a_level_gives_every_label(client: Client) -> None:
    found = client.classify([item_id(50)], support=by_item(1), conformal_level=0.9)
    assert set(answers(found.results)[0].conformal_set) == set(CLASSES)
    assert found.classifier.name == "prototype"
    assert found.classifier.accuracy is None


def test_unknown_is_raised_by_what_is_like_no_class_and_negatives_sharpen_it(client: Client) -> None:
    boats_and_birds = [one for one in by_item(10) if one.label in {"boat", "bird"}]
    negatives = [SupportExample(query=item_id(i), negative=True) for i in (2, 3, 6, 7, 10, 11, 14, 15)]
    known = [i for i in range(100, 200) if i % 4 < 2]
    others = [i for i in range(100, 200) if i % 4 >= 2]
    found = client.classify([item_id(i) for i in known + others], support=boats_and_birds + negatives)
    said = np.array([one.unknown for one in answers(found.results)])
    assert said[: len(known)].mean() < 0.1
    assert said[len(known) :].mean() > 0.9
    one = answers(found.results)[0]
    assert one.unknown == (one.unknown_score > one.unknown_threshold)
    alone = answers(client.classify([item_id(i) for i in others], support=boats_and_birds).results)
    assert np.mean([one.unknown_score > one.unknown_threshold for one in alone]) > 0.3


def test_options_are_kept(client: Client) -> None:
    queries = [item_id(i) for i in range(100, 160)]
    few = answers(client.classify(queries, support=by_item(5), class_count=2).results)
    assert all(len(one.probabilities) == 2 for one in few)
    everything = answers(client.classify(queries, support=by_item(5), class_count=0).results)
    assert all(len(one.probabilities) == 4 for one in everything)
    refined = answers(client.classify(queries, support=by_item(1), transductive=True).results)
    truth = [CLASSES[i % 4] for i in range(100, 160)]
    assert np.mean([one.label == wanted for one, wanted in zip(refined, truth, strict=True)]) > 0.9
    for name in ("knn", "ridge", "logistic", "blend", "prototype"):
        assert client.classify(queries[:2], support=by_item(5), classifier=name).classifier.name == name


def test_one_wrong_query_is_its_own_error(client: Client) -> None:
    bad = np.zeros(32, np.float32)
    bad[3] = np.nan
    found = client.classify([item_id(1), "nowhere.png", bad, np.ones(5), b"no image"], support=by_item(2))
    kinds = [type(one) for one in found.results]
    assert kinds == [Classification, ItemNotFoundError, InvalidVectorError, DimensionMismatchError, NoEncoderError]


@pytest.mark.parametrize(
    ("support", "options", "error", "words"),
    [
        ([], {}, InvalidLabelError, "0 examples"),
        ([SupportExample(query=item_id(1), negative=True)], {}, InvalidLabelError, "no labelled example"),
        ([SupportExample(query=item_id(1), label="x" * 2**20)], {}, InvalidLabelError, "1 to 256 bytes"),
        ([SupportExample(query=item_id(1))], {}, InvalidLabelError, "1 to 256 bytes"),
        ([SupportExample(query=item_id(1), label="a\nb")], {}, InvalidLabelError, "control"),
        ([SupportExample(query=item_id(1), label="a", negative=True)], {}, InvalidLabelError, "negative"),
        ([SupportExample(query="gone.png", label="a")], {}, ItemNotFoundError, "example 0.*gone"),
        ([SupportExample(query=np.full(32, np.nan), label="a")], {}, InvalidVectorError, "example 0.*finite"),
        (
            [SupportExample(query=item_id(1), label="a"), SupportExample(query=item_id(1), label="b")],
            {},
            InvalidLabelError,
            "as 'a' and as 'b'",
        ),
        ("nothing-here", {}, LabelSetNotFoundError, "nothing-here"),
        ("No Name", {}, InvalidLabelError, "a-z"),
        (by_item(1), {"classifier": "rigde"}, InvalidArgumentError, "did you mean 'ridge'"),
        (by_item(1), {"conformal_level": 1.0}, InvalidArgumentError, "conformal_level"),
        (by_item(1), {"evidence_count": 101}, InvalidArgumentError, "0 to 100"),
        (by_item(1), {"class_count": -1}, InvalidArgumentError, "class_count"),
    ],
)
def test_bad_input_has_one_clear_answer(
    client: Client, support: object, options: dict[str, object], error: type[VicinalError], words: str
) -> None:
    with pytest.raises(error, match=words):
        client.classify([item_id(1)], support=support, **options)  # type: ignore[arg-type]


def test_too_many_or_no_queries_are_refused(client: Client) -> None:
    for queries in ([], [item_id(1)] * 1001):
        with pytest.raises(InvalidArgumentError, match="1 to 1,000"):
            client.classify(queries, support=by_item(1))


def test_one_class_and_one_item_are_answered(client: Client) -> None:
    found = client.classify([item_id(5)], support=[SupportExample(query=item_id(1), label="only")])
    (one,) = answers(found.results)
    assert (one.label, one.probability, one.conformal_set) == ("only", 1.0, ["only"])


def test_classifiers_are_listed_with_what_they_do(client: Client) -> None:
    found = {one.name: one.description for one in client.list_classifiers()}
    assert {"auto", "prototype", "knn", "ridge", "logistic"} <= set(found)
    assert all(found.values())


def test_the_asyncio_client_says_the_same_and_a_swap_brings_a_new_fit(tmp_path: Path) -> None:
    store = made_workspace(tmp_path / "workspace", count=80)

    async def ask(address: str) -> list[str]:
        async with AsyncClient(address) as client:
            found = await client.classify([item_id(70)], support=by_item(3))
            return [found.snapshot.name, answers(found.results)[0].label]

    with running_server(store) as address, Client(address) as client:
        assert asyncio.run(ask(address)) == ["snapshots/000001", CLASSES[2]]
        add_snapshot(store, made_clusters(80, seed=5)[0])
        client.activate_snapshot("snapshots/000002")
        assert asyncio.run(ask(address)) == ["snapshots/000002", CLASSES[2]]
        pinned = client.classify([item_id(70)], support=by_item(3), snapshot="snapshots/000001")
        assert pinned.snapshot.name == "snapshots/000001"
