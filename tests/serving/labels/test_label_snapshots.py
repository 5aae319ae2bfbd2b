"""Replies about labels name the snapshot against which missing items were counted."""

from typing import Any

from google.protobuf.message import Message

from tests.serving.labelled_workspace import first, item_id
from vicinal.client import Client
from vicinal.client.call import Call
from vicinal.v1 import label_service_pb2 as pb


def ask(client: Client, method: str, request: Message, response: type[Message]) -> Any:
    path = f"/vicinal.v1.LabelService/{method}"
    return client.call(Call(method=path, request=request, response=response, decode=lambda reply: reply))


def test_replies_that_count_missing_items_name_the_snapshot(client: Client, name: str) -> None:
    labels = [pb.Label(item_id=item_id(1), label="bird"), pb.Label(item_id="gone", label="bird")]
    put = ask(client, "PutLabels", pb.PutLabelsRequest(name=name, labels=labels), pb.PutLabelsResponse)
    assert (put.missing_count, put.snapshot.name) == (1, "snapshots/000001")
    found = ask(client, "GetLabelSet", pb.GetLabelSetRequest(name=name), pb.GetLabelSetResponse)
    assert (found.label_set.missing_count, found.snapshot) == (1, put.snapshot)
    client.put_labels(name, first(8))
    client.propose(name, min_probability=0)
    proposed = client.list_proposals(name).proposals[0]
    request = pb.AcceptProposalsRequest(name=name, item_ids=[proposed.item_id])
    accepted = ask(client, "AcceptProposals", request, pb.AcceptProposalsResponse)
    assert accepted.snapshot == put.snapshot
