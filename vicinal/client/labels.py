"""The calls of LabelService about labels: put, remove, list, export, import."""

from collections.abc import Sequence

from vicinal.client.call import Call
from vicinal.client.fewshot import label_set_name
from vicinal.client.label_results import (
    SERVICE,
    Label,
    LabelBatch,
    LabelPage,
    decode_changed,
    decode_label,
    encode_label,
    label_call,
)
from vicinal.errors import InvalidArgumentError
from vicinal.v1 import label_service_pb2 as pb

_CHUNK_BYTES = 1 << 20


def put_labels(
    name: str,
    labels: Sequence[Label],
    *,
    request_id: str = "",
    known_items_only: bool = False,
    timeout_s: float | None = None,
) -> Call[LabelBatch]:
    """Labels items, as one batch; when it returns, the labels are on disk.

    Args:
        name: of the set.
        labels: 1 to 10,000.
        request_id: repeating a request with the same id has no further effect; give one to make retries safe.
        known_items_only: refuse items that the active snapshot does not hold.
        timeout_s: seconds to wait for the answer; None takes the client's.
    """
    request = pb.PutLabelsRequest(
        name=label_set_name(name),
        labels=[encode_label(one) for one in labels],
        request_id=request_id,
        known_items_only=known_items_only,
    )
    return label_call(
        "PutLabels", request, pb.PutLabelsResponse, decode_changed, timeout_s=timeout_s, retry=bool(request_id)
    )


def remove_labels(
    name: str, labels: Sequence[Label], *, author: str = "", request_id: str = "", timeout_s: float | None = None
) -> Call[LabelBatch]:
    """Takes labels off items, as one batch.

    Args:
        name: of the set.
        labels: items with a label, or with an empty one for all of their labels.
        author: who does it.
        request_id: repeating a request with the same id has no further effect.
        timeout_s: seconds to wait for the answer; None takes the client's.
    """
    request = pb.RemoveLabelsRequest(
        name=label_set_name(name),
        labels=[encode_label(one) for one in labels],
        author=author,
        request_id=request_id,
    )
    return label_call(
        "RemoveLabels", request, pb.RemoveLabelsResponse, decode_changed, timeout_s=timeout_s, retry=bool(request_id)
    )


def list_labels(
    name: str,
    *,
    label: str = "",
    version: int | None = None,
    page_size: int = 1000,
    page_token: str = "",
    timeout_s: float | None = None,
) -> Call[LabelPage]:
    """Lists the labels that hold, by item id, a page at a time.

    Args:
        name: of the set.
        label: only this class.
        version: as of this version; None for the newest.
        page_size: labels a page, 1 to 10,000.
        page_token: from the last page.
        timeout_s: seconds to wait for the answer; None takes the client's.
    """
    request = pb.ListLabelsRequest(
        name=label_set_name(name), label=label, version=version, page_size=page_size, page_token=page_token
    )
    return label_call("ListLabels", request, pb.ListLabelsResponse, _page, timeout_s=timeout_s)


def export_labels(
    name: str, file_format: str, *, version: int | None = None, timeout_s: float | None = None
) -> Call[bytes]:
    """Returns a label set as a file.

    Args:
        name: of the set.
        file_format: ``csv``, ``jsonl``, ``parquet``, ``coco`` or ``label_studio``.
        version: as of this version; None for the newest.
        timeout_s: seconds to wait for the answer; None takes the client's.
    """

    def decode(parts: list[pb.ExportLabelsResponse]) -> bytes:
        return b"".join(part.data for part in parts)

    return Call(
        method=f"{SERVICE}/ExportLabels",
        request=pb.ExportLabelsRequest(name=label_set_name(name), format=file_format, version=version),
        response=pb.ExportLabelsResponse,
        decode=decode,
        timeout_s=timeout_s,
        streamed=True,
    )


def import_labels(
    name: str,
    file_format: str,
    content: bytes,
    *,
    author: str = "",
    request_id: str = "",
    timeout_s: float | None = None,
) -> Call[LabelBatch]:
    """Imports a file into a label set, as one batch; a file that is wrong anywhere changes nothing.

    Args:
        name: of the set.
        file_format: as for ``export_labels``.
        content: the file.
        author: said where the file names nobody.
        request_id: repeating an import with the same id has no further effect.
        timeout_s: seconds to wait for the answer; None takes the client's.

    Raises:
        InvalidArgumentError: content is not bytes.
    """
    if not isinstance(content, bytes | bytearray | memoryview):
        raise InvalidArgumentError(f"content is the bytes of a file, got {type(content).__name__}")
    first = pb.ImportLabelsRequest(name=label_set_name(name), format=file_format, author=author, request_id=request_id)
    parts = [
        pb.ImportLabelsRequest(data=bytes(content[start : start + _CHUNK_BYTES]))
        for start in range(0, len(content), _CHUNK_BYTES)
    ]
    return Call(
        method=f"{SERVICE}/ImportLabels",
        request=first,
        requests=[first, *parts],
        response=pb.ImportLabelsResponse,
        decode=decode_changed,
        timeout_s=timeout_s,
        retry=bool(request_id),
    )


def _page(reply: pb.ListLabelsResponse) -> LabelPage:
    labels = [decode_label(one) for one in reply.labels]
    return LabelPage(labels=labels, next_page_token=reply.next_page_token, version=reply.version)
