"""The calls of LabelService about label sets and their history."""

from vicinal.client.call import Call
from vicinal.client.fewshot import label_set_name
from vicinal.client.label_results import (
    LabelBatch,
    LabelConflict,
    LabelSet,
    decode_batch,
    decode_changed,
    decode_label,
    decode_set,
    label_call,
)
from vicinal.v1 import label_service_pb2 as pb


def create_label_set(name: str, *, multi_label: bool = False, timeout_s: float | None = None) -> Call[LabelSet]:
    """Makes a label set.

    Args:
        name: 1 to 63 of a-z, 0-9 and -.
        multi_label: whether an item may have several labels.
        timeout_s: seconds to wait for the answer; None takes the client's.
    """
    plain = label_set_name(name).removeprefix("labelSets/")
    request = pb.CreateLabelSetRequest(label_set_id=plain, multi_label=multi_label)
    return label_call("CreateLabelSet", request, pb.CreateLabelSetResponse, _set_of, timeout_s=timeout_s)


def get_label_set(name: str, *, version: int | None = None, timeout_s: float | None = None) -> Call[LabelSet]:
    """Returns a label set with its classes and counts.

    Args:
        name: of the set.
        version: as of this version; None for the newest.
        timeout_s: seconds to wait for the answer; None takes the client's.
    """
    request = pb.GetLabelSetRequest(name=label_set_name(name), version=version)
    return label_call("GetLabelSet", request, pb.GetLabelSetResponse, _set_of, timeout_s=timeout_s)


def list_label_sets(*, timeout_s: float | None = None) -> Call[list[LabelSet]]:
    """Lists the label sets, up to 1,000.

    Args:
        timeout_s: seconds to wait for the answer; None takes the client's.
    """

    def decode(reply: pb.ListLabelSetsResponse) -> list[LabelSet]:
        return [decode_set(one) for one in reply.label_sets]

    request = pb.ListLabelSetsRequest(page_size=1000)
    return label_call("ListLabelSets", request, pb.ListLabelSetsResponse, decode, timeout_s=timeout_s)


def delete_label_set(name: str, *, author: str = "", timeout_s: float | None = None) -> Call[LabelBatch]:
    """Hides a label set; undoing the batch brings it back.

    Args:
        name: of the set.
        author: who deletes it.
        timeout_s: seconds to wait for the answer; None takes the client's.
    """
    request = pb.DeleteLabelSetRequest(name=label_set_name(name), author=author)
    return label_call(
        "DeleteLabelSet", request, pb.DeleteLabelSetResponse, decode_changed, timeout_s=timeout_s, retry=False
    )


def rename_class(
    name: str, label: str, new_label: str, *, author: str = "", timeout_s: float | None = None
) -> Call[LabelBatch]:
    """Renames a class; onto a name that exists, it merges the two.

    Args:
        name: of the set.
        label: the class.
        new_label: its new name.
        author: who does it.
        timeout_s: seconds to wait for the answer; None takes the client's.
    """
    request = pb.RenameClassRequest(name=label_set_name(name), label=label, new_label=new_label, author=author)
    return label_call("RenameClass", request, pb.RenameClassResponse, decode_changed, timeout_s=timeout_s, retry=False)


def list_batches(name: str, *, page_size: int = 100, timeout_s: float | None = None) -> Call[list[LabelBatch]]:
    """Lists the newest changes of a label set, newest first.

    Args:
        name: of the set.
        page_size: batches wanted, 1 to 1,000.
        timeout_s: seconds to wait for the answer; None takes the client's.
    """

    def decode(reply: pb.ListBatchesResponse) -> list[LabelBatch]:
        return [decode_batch(one) for one in reply.batches]

    request = pb.ListBatchesRequest(name=label_set_name(name), page_size=page_size)
    return label_call("ListBatches", request, pb.ListBatchesResponse, decode, timeout_s=timeout_s)


def undo_batch(name: str, batch: int = 0, *, author: str = "", timeout_s: float | None = None) -> Call[LabelBatch]:
    """Undoes a batch by an inverse one; what was changed since is left alone and counted.

    Args:
        name: of the set.
        batch: its number; 0 for the newest that is not undone.
        author: who does it.
        timeout_s: seconds to wait for the answer; None takes the client's.
    """
    request = pb.UndoBatchRequest(name=label_set_name(name), batch=batch, author=author)
    return label_call("UndoBatch", request, pb.UndoBatchResponse, decode_changed, timeout_s=timeout_s, retry=False)


def redo_batch(name: str, batch: int = 0, *, author: str = "", timeout_s: float | None = None) -> Call[LabelBatch]:
    """Does an undone batch again.

    Args:
        name: of the set.
        batch: the batch that was undone; 0 for the last undone.
        author: who does it.
        timeout_s: seconds to wait for the answer; None takes the client's.
    """
    request = pb.RedoBatchRequest(name=label_set_name(name), batch=batch, author=author)
    return label_call("RedoBatch", request, pb.RedoBatchResponse, decode_changed, timeout_s=timeout_s, retry=False)


def list_conflicts(name: str, *, page_size: int = 1000, timeout_s: float | None = None) -> Call[list[LabelConflict]]:
    """Lists items on which people disagree.

    Args:
        name: of the set.
        page_size: conflicts wanted, 1 to 1,000.
        timeout_s: seconds to wait for the answer; None takes the client's.
    """

    def decode(reply: pb.ListConflictsResponse) -> list[LabelConflict]:
        return [
            LabelConflict(item_id=one.item_id, labels=[decode_label(row) for row in one.labels])
            for one in reply.conflicts
        ]

    request = pb.ListConflictsRequest(name=label_set_name(name), page_size=page_size)
    return label_call("ListConflicts", request, pb.ListConflictsResponse, decode, timeout_s=timeout_s)


def _set_of(reply: pb.GetLabelSetResponse | pb.CreateLabelSetResponse) -> LabelSet:
    return decode_set(reply.label_set)
