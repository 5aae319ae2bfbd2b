"""``labels.NAME`` in a search: filter and group by what people said of the items, as of now."""

import numpy as np
import pytest

from tests.serving.labelled_workspace import item_id, made_clusters, made_workspace, running_server
from vicinal.client import Client, Label
from vicinal.errors import LabelSetNotFoundError
from vicinal.v1 import types_pb2


def labelled_as(*labels: str, name: str = "marks") -> types_pb2.Filter:
    values = [types_pb2.Value(string_value=label) for label in labels]
    condition = types_pb2.Condition(column=f"labels.{name}", operator=types_pb2.OPERATOR_IN, values=values)
    return types_pb2.Filter(condition=condition)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    store = made_workspace(tmp_path_factory.mktemp("labels") / "workspace", count=200)
    with running_server(store) as address, Client(address) as client:
        client.create_label_set("marks")
        client.put_labels("marks", [Label(item_id=item_id(i), label="good" if i % 3 else "bad") for i in range(60)])
        yield client


def test_a_search_is_filtered_by_labels_and_sees_a_new_one_at_once(client):
    x_QD = made_clusters(200)[0][:2]
    wanted = {item_id(i) for i in range(60) if i % 3 == 0}
    found = client.search(x_QD[0], neighbor_count=100, filter=labelled_as("bad"))
    assert set(found.item_ids) == wanted
    batch = client.batch_search(x_QD, neighbor_count=100, filter=labelled_as("bad"))
    assert [set(result.item_ids) for result in batch.results] == [wanted, wanted]
    client.put_labels("marks", [Label(item_id=item_id(150), label="bad")])
    found = client.search(x_QD[0], neighbor_count=100, filter=labelled_as("bad"))
    assert set(found.item_ids) == wanted | {item_id(150)}
    assert np.all(np.diff(found.scores) <= 0)


def test_neighbors_are_grouped_by_label(client):
    found = client.search(made_clusters(200)[0][0], neighbor_count=10, group_by="labels.marks", group_size=2)
    assert len(found.item_ids) == 6  # two good, two bad, two without a label


def test_an_unknown_set_is_not_found(client):
    with pytest.raises(LabelSetNotFoundError, match="nothing"):
        client.search(made_clusters(200)[0][0], filter=labelled_as("x", name="nothing"))
