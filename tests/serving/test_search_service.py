"""SearchService over a real connection: every form of a query, and one clear error for each thing wrong."""

import numpy as np
import pytest

from index.snapshot import Snapshot
from tests.serving.conftest import DIMENSION, make_vectors
from tests.serving.images import huge_png_header, make_png
from vicinal import codec
from vicinal.client import Client
from vicinal.errors import (
    DimensionMismatchError,
    InvalidArgumentError,
    InvalidImageError,
    InvalidVectorError,
    ItemNotFoundError,
    NoEncoderError,
    NotFoundError,
    SnapshotNotFoundError,
    VicinalError,
)
from vicinal.store import Store
from vicinal.v1 import types_pb2


def test_search_by_vector_gives_what_the_snapshot_gives(client: Client, vector_store: Store) -> None:
    snapshot = Snapshot.open(vector_store.path("snapshots", "1"))
    x_QD = make_vectors(5, seed=9)
    wanted = snapshot.search(x_QD, neighbor_count=7)
    for row, x_D in enumerate(x_QD):
        found = client.search(x_D, neighbor_count=7)
        assert found.item_ids == snapshot.items.item_ids(wanted.rows_QK[row])
        np.testing.assert_allclose(found.scores, wanted.scores_QK[row], rtol=1e-6)
        assert found.snapshot.name == "snapshots/000001"
        assert found.snapshot.fingerprint == snapshot.fingerprint
        assert found.plan.strategy == "exact"
    snapshot.close()


def test_search_by_item_leaves_the_item_out_unless_asked(client: Client) -> None:
    assert "item-00007" not in client.search("item-00007").item_ids
    assert client.search("item-00007", include_query_item=True).item_ids[0] == "item-00007"


def test_search_by_image_finds_the_same_image(image_client: Client) -> None:
    found = image_client.search(make_png(3, form="PNG"), neighbor_count=3)
    assert found.item_ids[0] == "image-00003"
    assert found.scores[0] == pytest.approx(1.0, abs=1e-5)


def test_search_by_examples_is_a_direction(image_client: Client) -> None:
    examples = types_pb2.Examples(
        positives=[types_pb2.Query(item_id="image-00001")], negatives=[types_pb2.Query(item_id="image-00002")]
    )
    found = image_client.search(types_pb2.Query(examples=examples), neighbor_count=40)
    assert found.item_ids.index("image-00001") < found.item_ids.index("image-00002")


def test_k_larger_than_the_index_returns_all(client: Client) -> None:
    assert len(client.search(make_vectors(1)[0], neighbor_count=600)) == 500


def test_options_pass_through(client: Client) -> None:
    x_D = make_vectors(1, seed=5)[0]
    plain = client.search(x_D, neighbor_count=5)
    left = client.search(x_D, neighbor_count=5, excluded_item_ids=[plain.item_ids[0]])
    assert left.item_ids[:4] == plain.item_ids[1:]
    assert len(client.search(x_D, neighbor_count=5, min_score=float(plain.scores[1]))) == 2
    assert client.search(x_D, target_recall=1.0).plan.strategy == "exact"
    full = client.search(x_D, neighbor_count=2, include_items=True)
    assert [item.item_id for item in full.items] == full.item_ids
    assert full.items[0].metadata["name"] == f"n{full.items[0].metadata['price']}"


@pytest.mark.parametrize("count", [0, -1, 10_000_000])
def test_an_impossible_neighbor_count_is_one_clear_error(client: Client, count: int) -> None:
    with pytest.raises(InvalidArgumentError, match=r"neighbor_count is .* wanted 1 to 10000") as caught:
        client.search(make_vectors(1)[0], neighbor_count=count)
    assert caught.value.field == "options.neighbor_count"


def test_a_vector_of_the_wrong_dimension_is_a_failed_precondition(client: Client) -> None:
    with pytest.raises(DimensionMismatchError, match="dimension 3, snapshots/000001 has 16"):
        client.search(np.ones(3))
    with pytest.raises(DimensionMismatchError):
        client.batch_search(np.ones((2, 3)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_refused(client: Client, bad: float) -> None:
    x_D = np.ones(DIMENSION, dtype=np.float32)
    x_D[4] = bad
    with pytest.raises(InvalidVectorError, match="NaN or infinity"):
        client.search(x_D)


def test_a_zero_vector_under_cosine_is_refused(image_client: Client) -> None:
    with pytest.raises(InvalidVectorError, match="zero"):
        image_client.search(np.zeros(192))


def test_an_unknown_item_is_not_found_and_named(client: Client) -> None:
    with pytest.raises(ItemNotFoundError, match="nobody") as caught:
        client.search("nobody.jpg")
    assert caught.value.metadata["item_id"] == "nobody.jpg"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"this is text, not a JPEG",
        make_png(1, form="JPEG")[:200],
        huge_png_header(),
        b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
        b"P5 1000000 1000000 255\n",
    ],
    ids=["empty", "text", "truncated", "huge", "broken", "huge-pgm"],
)
def test_a_hostile_image_is_one_clear_error(image_client: Client, content: bytes) -> None:
    with pytest.raises(InvalidImageError) as caught:
        image_client.search(content)
    assert len(caught.value.message) < 300


def test_an_image_without_an_encoder_says_so(client: Client) -> None:
    with pytest.raises(NoEncoderError, match="query by vector or item id"):
        client.search(make_png(1))
    with pytest.raises(NoEncoderError):
        client.embed([make_png(1)])


def test_malformed_queries_are_invalid_arguments(client: Client) -> None:
    wrong = [
        types_pb2.Query(),
        types_pb2.Query(item_id=""),
        types_pb2.Query(item_id="x" * 1025),
        types_pb2.Query(vector=types_pb2.Vector()),
        types_pb2.Query(vector=types_pb2.Vector(packed=b"abc")),
        types_pb2.Query(vector=types_pb2.Vector(packed=b"\0" * 64, dimension=3)),
        types_pb2.Query(vector=types_pb2.Vector(packed=b"\0" * 64, values=[1.0])),
        types_pb2.Query(examples=types_pb2.Examples()),
        types_pb2.Query(examples=types_pb2.Examples(positives=[types_pb2.Query(examples=types_pb2.Examples())])),
    ]
    for query in wrong:
        with pytest.raises(InvalidArgumentError):
            client.search(query)


def test_an_option_that_cannot_take_effect_is_an_error(client: Client) -> None:
    x_D = make_vectors(1)[0]
    with pytest.raises(InvalidArgumentError, match="exclude each other"):
        client.search(x_D, effort=3, target_recall=0.9)
    with pytest.raises(InvalidArgumentError):
        client.search(x_D, target_recall=1.5)
    with pytest.raises(VicinalError):
        client.search(x_D, page_token="nonsense")


def test_an_unknown_pinned_snapshot_is_not_found(client: Client) -> None:
    for name in ("snapshots/000099", "snapshots/../../etc", "x" * 5000):
        with pytest.raises(SnapshotNotFoundError):
            client.search("item-00001", snapshot=name)


def test_batch_gives_each_query_its_own_result_or_error(client: Client) -> None:
    x_QD = make_vectors(6, seed=2)
    x_QD[2, 3] = np.nan
    reply = client.batch_search(x_QD, neighbor_count=4)
    assert list(reply.errors) == [2]
    assert [type(one).__name__ for one in reply.results[1:4]] == ["SearchResult", "InvalidVectorError", "SearchResult"]
    assert reply.results[-1].item_ids == reply[5].item_ids  # type: ignore[union-attr]
    with pytest.raises(IndexError):
        reply[6]
    with pytest.raises(InvalidVectorError):
        list(reply)
    assert isinstance(reply.errors[2], InvalidVectorError)
    for place in (0, 1, 3, 4, 5):
        alone = client.search(x_QD[place], neighbor_count=4)
        assert reply[place].item_ids == alone.item_ids
        np.testing.assert_allclose(reply[place].scores, alone.scores, rtol=1e-5, atol=1e-5)


def test_batch_of_mixed_queries(image_client: Client) -> None:
    reply = image_client.batch_search(["image-00004", make_png(4), b"no image", "nobody"], neighbor_count=2)
    assert reply.results[0].item_ids != reply.results[1].item_ids  # type: ignore[union-attr]
    assert reply[1].item_ids[0] == "image-00004"
    assert isinstance(reply.errors[2], InvalidImageError)
    assert isinstance(reply.errors[3], ItemNotFoundError)


def test_batch_limits(client: Client) -> None:
    with pytest.raises(InvalidArgumentError, match="0 queries"):
        client.batch_search(np.zeros((0, DIMENSION)))
    with pytest.raises(InvalidArgumentError, match="10001 queries"):
        client.batch_search(np.zeros((10_001, DIMENSION), np.float32))
    with pytest.raises(InvalidArgumentError, match="in one reply"):
        client.batch_search(np.zeros((10_000, DIMENSION), np.float32), neighbor_count=10_000)
    with pytest.raises(InvalidArgumentError, match="exactly one"):
        client.batch_search([])


def test_embed_gives_a_row_or_an_error_for_each_image(image_client: Client) -> None:
    reply = image_client.embed([make_png(1), b"text", make_png(2)])
    assert list(reply.errors) == [1]
    assert np.isnan(reply.vectors[1]).all()
    np.testing.assert_allclose(np.linalg.norm(reply.vectors[[0, 2]], axis=1), 1, atol=1e-5)
    assert image_client.search(reply.vectors[2], neighbor_count=1).item_ids == ["image-00002"]
    assert len(reply.digests[0]) == 64
    with pytest.raises(InvalidArgumentError, match="empty"):
        image_client.embed([])
    with pytest.raises(InvalidArgumentError, match="the limit is 256"):
        image_client.embed([b"x"] * 257)


def condition(column: str, operator: "types_pb2.Operator.ValueType", *values: object) -> types_pb2.Filter:
    encoded = [codec.encode_value(value) for value in values]  # type: ignore[arg-type]
    return types_pb2.Filter(condition=types_pb2.Condition(column=column, operator=operator, values=encoded))


def test_filters_and_groups_bound_what_is_returned(client: Client) -> None:
    cheap = condition("price", types_pb2.OPERATOR_LESS, 10)
    assert set(client.search("item-00400", neighbor_count=50, filter=cheap).item_ids) == {
        f"item-{number:05d}" for number in range(10)
    }
    others = types_pb2.Filter(none_of=cheap)
    both = types_pb2.Filter(all_of=types_pb2.FilterList(filters=[cheap, others]))
    assert len(client.search("item-00400", filter=both)) == 0
    either = types_pb2.Filter(any_of=types_pb2.FilterList(filters=[cheap, others]))
    assert client.search("item-00400", filter=either).item_ids == client.search("item-00400").item_ids
    assert len(client.search("item-00400", group_by="source")) == 1
    assert len(client.search("item-00400", group_by="source", group_size=4)) == 4


def test_wrong_filters_and_groups_are_refused(client: Client) -> None:
    deep = condition("price", types_pb2.OPERATOR_LESS, 10)
    for _ in range(40):
        deep = types_pb2.Filter(none_of=deep)
    many = types_pb2.Filter(any_of=types_pb2.FilterList(filters=[types_pb2.Filter()] * 1001))
    wrong = [
        types_pb2.Filter(),
        deep,
        many,
        condition("price", types_pb2.OPERATOR_UNSPECIFIED, 1),
        condition("price", types_pb2.OPERATOR_LESS, None),
        condition("price", types_pb2.OPERATOR_LESS, "text"),
        condition("price", types_pb2.OPERATOR_LESS),
    ]
    for bad in wrong:
        with pytest.raises(InvalidArgumentError):
            client.search("item-00001", filter=bad)
    with pytest.raises(NotFoundError, match="prize"):
        client.search("item-00001", filter=condition("prize", types_pb2.OPERATOR_LESS, 1))
    with pytest.raises(VicinalError, match="prize"):
        client.search("item-00001", group_by="prize")
    with pytest.raises(InvalidArgumentError):
        client.search("item-00001", group_by="source", group_size=-1)


def test_pages_go_through_everything_once_and_stay_with_their_snapshot(client: Client) -> None:
    x_D = make_vectors(1, seed=3)[0]
    whole = client.search(x_D, neighbor_count=500)
    seen: list[str] = []
    token = ""
    while True:
        page = client.search(x_D, neighbor_count=120, page_token=token)
        seen += page.item_ids
        token = page.next_page_token
        if not token:
            break
    assert seen == whole.item_ids
    first = client.search(x_D, neighbor_count=5)
    for wrong in ("x", client.list_items(page_size=1).next_page_token, first.next_page_token[:-8]):
        with pytest.raises(InvalidArgumentError, match="page_token"):
            client.search(x_D, page_token=wrong)
    with pytest.raises(InvalidArgumentError, match="page_token"):
        client.search(x_D, page_token=first.next_page_token, snapshot="snapshots/000002")
    with pytest.raises(InvalidArgumentError, match="no pages"):
        client.batch_search(make_vectors(2), page_token=first.next_page_token)


def test_items_are_listed_by_filter(client: Client) -> None:
    page = client.list_items(filter=condition("price", types_pb2.OPERATOR_GREATER_OR_EQUAL, 490), page_size=6)
    rest = client.list_items(
        filter=condition("price", types_pb2.OPERATOR_GREATER_OR_EQUAL, 490), page_token=page.next_page_token
    )
    assert [item.metadata["price"] for item in (*page.items, *rest.items)] == list(range(490, 500))
    assert rest.next_page_token == ""
