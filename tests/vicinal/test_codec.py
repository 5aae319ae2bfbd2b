"""The codec: arrays, values and errors survive the wire; what is torn is refused."""

from datetime import UTC, datetime

import numpy as np
import pytest
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from vicinal import codec
from vicinal.errors import (
    ERROR_DOMAIN,
    Code,
    InvalidArgumentError,
    InvalidVectorError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
    VicinalError,
    by_reason,
)
from vicinal.types import Metric, SnapshotRef
from vicinal.v1 import types_pb2

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(arrays(np.float32, array_shapes(min_dims=1, max_dims=1, min_side=1, max_side=40), elements=FINITE))
def test_a_vector_survives(x_D: np.ndarray) -> None:
    np.testing.assert_array_equal(codec.decode_vector(codec.encode_vector(x_D)), x_D)
    np.testing.assert_array_equal(codec.decode_vector(types_pb2.Vector(values=x_D.tolist())), x_D)


@given(arrays(np.float32, st.tuples(st.integers(0, 9), st.integers(1, 9)), elements=FINITE))
def test_a_batch_of_vectors_survives(x_QD: np.ndarray) -> None:
    np.testing.assert_array_equal(codec.decode_vectors(codec.encode_vectors(x_QD)), x_QD)


def test_other_types_and_layouts_are_packed_as_little_endian_float32() -> None:
    x_QD = np.arange(12, dtype=np.int64).reshape(3, 4)[:, ::2]
    assert codec.pack(x_QD) == x_QD.astype("<f4").tobytes()
    assert codec.encode_vector([1, 2]).packed == np.array([1, 2], "<f4").tobytes()


@pytest.mark.parametrize("shape", [(0,), (2, 2), ()])
def test_what_is_no_vector_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidVectorError):
        codec.encode_vector(np.zeros(shape))


def test_what_is_no_batch_is_refused() -> None:
    for x in (np.zeros(3), np.zeros((2, 0))):
        with pytest.raises(InvalidVectorError):
            codec.encode_vectors(x)
    for batch in (types_pb2.VectorBatch(packed=b"1234"), types_pb2.VectorBatch(packed=b"12345678", dimension=3)):
        with pytest.raises(InvalidVectorError):
            codec.decode_vectors(batch)


def test_metrics_survive_and_an_unknown_one_is_refused() -> None:
    for metric in Metric:
        assert codec.decode_metric(codec.encode_metric(metric)) is metric
    with pytest.raises(InvalidArgumentError, match="update the client"):
        codec.decode_metric(0)


def test_a_snapshot_reference_survives() -> None:
    ref = SnapshotRef(name="snapshots/000007", fingerprint="ab" * 32, generation=12)
    assert codec.decode_ref(codec.encode_ref(ref)) == ref


@pytest.mark.parametrize(
    "value", [None, True, False, 0, -(2**63), 1.5, "", "é", datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=UTC)]
)
def test_a_metadata_value_survives_with_its_type(value: codec.Scalar) -> None:
    found = codec.decode_value(codec.encode_value(value))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("seconds", "nanos"), [(0, -1), (0, 10**9), (2**62, 0), (-(2**62), 0), (253402300800, 0)])
def test_an_instant_that_is_none_is_refused(seconds: int, nanos: int) -> None:
    message = types_pb2.Value()
    message.time_value.seconds, message.time_value.nanos = seconds, nanos
    with pytest.raises(InvalidArgumentError, match="no instant"):
        codec.decode_value(message)


@pytest.mark.parametrize("cls", by_reason().values(), ids=lambda cls: cls.__name__)
def test_every_error_class_survives_the_wire(cls: type[VicinalError]) -> None:
    error = cls("what happened", metadata={"item_id": "a.jpg", "path": "/secret"}, field="options.effort")
    trailing: list[tuple[str, str | bytes]] = [("x-request-id", "1"), (codec.STATUS_KEY, codec.encode_status(error))]
    found = codec.decode_status(int(error.code), "what happened", trailing)
    assert type(found) is cls
    assert (found.message, found.field, found.metadata) == ("what happened", "options.effort", {"item_id": "a.jpg"})
    inside = codec.decode_error(codec.encode_error(error))
    assert type(inside) is cls
    assert inside.metadata == {"item_id": "a.jpg"}


def test_retry_info_survives() -> None:
    error = OverloadedError("busy", metadata={codec.RETRY_AFTER_KEY: "50"})
    found = codec.decode_status(8, "", [(codec.STATUS_KEY, codec.encode_status(error))])
    assert found.metadata[codec.RETRY_AFTER_KEY] == "50"


def test_long_texts_are_cut() -> None:
    status = status_pb2.Status.FromString(codec.encode_status(NotFoundError("x" * 5000, metadata={"a": "y" * 5000})))
    assert len(status.message) == 1024
    assert len(codec.encode_status(NotFoundError("x" * 5000, metadata={"a": "y" * 5000}))) < 2000


def test_an_error_of_another_server_is_told_by_its_code() -> None:
    assert type(codec.decode_status(Code.UNAVAILABLE, "down", [])) is UnavailableError
    assert type(codec.decode_status(Code.UNAVAILABLE, "down", [(codec.STATUS_KEY, b"\xff")])) is UnavailableError
    assert type(codec.decode_status(99, "", [])) is VicinalError
    assert "larger than max" in codec.decode_status(8, "Received message larger than max (5 vs. 4)", []).message
    assert type(codec.decode_status(8, "Received message larger than max", [])) is InvalidArgumentError


def test_the_domain_is_ours() -> None:
    assert ERROR_DOMAIN.encode() in codec.encode_status(NotFoundError("x"))
