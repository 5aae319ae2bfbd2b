"""LabelService over a real server: proposals, and what to label next."""

import numpy as np
import pytest

from tests.serving.labelled_workspace import CLASSES, first, item_id, true_label
from vicinal.client import Client, Label, ProposalRule
from vicinal.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    InvalidLabelError,
    LabelSetNotFoundError,
)
from vicinal.v1 import types_pb2


def test_proposals_are_accepted_by_rule_as_one_batch_and_undone_as_one(client: Client, name: str) -> None:
    client.put_labels(name, first(40))
    found = client.propose(name, min_probability=0.6)
    assert found.candidate_count == 360
    assert found.proposal_count > 200
    page = client.list_proposals(name, page_size=50)
    assert len(page.proposals) == 50
    probabilities = [one.probability for one in page.proposals]
    assert probabilities == sorted(probabilities, reverse=True)
    second = client.list_proposals(name, page_size=50, page_token=page.next_page_token)
    assert not {one.item_id for one in page.proposals} & {one.item_id for one in second.proposals}
    assert all(len(one.evidence_item_ids) == 3 for one in page.proposals)
    labelled = {item_id(i) for i in range(40)}
    assert all(one.item_id not in labelled for one in page.proposals)
    batch = client.accept_proposals(name, rule=ProposalRule(label="boat", min_probability=0.7), author="ann")
    boats = client.list_labels(name, label="boat").labels
    accepted = [one for one in boats if one.source == "propagated"]
    assert len(accepted) == batch.change_count > 20
    assert np.mean([true_label(one.item_id) == "boat" for one in accepted]) > 0.95
    assert all(one.confidence >= 0.7 for one in accepted)
    assert {one.label for one in client.list_proposals(name).proposals} >= {"bird", "shoe", "tree"}
    client.undo_batch(name)
    assert client.get_label_set(name).classes["boat"] == 10


def test_rejected_proposals_do_not_come_back_unless_that_is_undone(client: Client, name: str) -> None:
    client.put_labels(name, first(40))
    client.propose(name)
    best = client.list_proposals(name, page_size=2).proposals
    rejected = client.reject_proposals(name, [one.item_id for one in best], author="ann")
    assert (rejected.verb, rejected.change_count) == ("reject", 2)
    client.propose(name)
    ids = {one.item_id for one in client.list_proposals(name).proposals}
    assert not ids & {one.item_id for one in best}
    client.undo_batch(name, rejected.number)
    client.propose(name)
    assert {one.item_id for one in best} <= {one.item_id for one in client.list_proposals(name).proposals}


def test_bad_choices_of_proposals_have_one_clear_answer(client: Client, name: str) -> None:
    with pytest.raises(InvalidLabelError, match="one of the two"):
        client.accept_proposals(name)
    with pytest.raises(InvalidLabelError, match="one of the two"):
        client.reject_proposals(name, ["a"], rule=ProposalRule())
    with pytest.raises(LabelSetNotFoundError, match="no open proposal"):
        client.accept_proposals(name, ["a"])
    with pytest.raises(LabelSetNotFoundError, match="meets the rule"):
        client.accept_proposals(name, rule=ProposalRule(min_score=0.5))
    with pytest.raises(InvalidLabelError, match="no labelled item"):
        client.propose(name)
    client.put_labels(name, [Label(item_id=item_id(0), label="boat")])
    with pytest.raises(FailedPreconditionError, match="two classes"):
        client.propose(name)
    for options in ({"min_probability": 1.5}, {"proposal_count": -1}):
        with pytest.raises(InvalidArgumentError, match="wanted"):
            client.propose(name, **options)


def test_negatives_keep_the_unknown_out_of_proposals(client: Client, name: str) -> None:
    known = [one for one in first(60) if one.label in {"boat", "bird"}]
    none = [Label(item_id=one.item_id, negative=True) for one in first(60) if one.label in {"shoe", "tree"}]
    client.put_labels(name, [*known, *none])
    client.propose(name, min_probability=0.0)
    proposed = client.list_proposals(name, page_size=10_000).proposals
    assert len(proposed) > 140
    assert np.mean([true_label(one.item_id) in {"boat", "bird"} for one in proposed]) > 0.9


@pytest.mark.parametrize("strategy", ["auto", "typical", "k_center", "random"])
def test_suggestions_are_new_items_and_none_twice(client: Client, name: str, strategy: str) -> None:
    found = client.suggest_next(name, item_count=8, strategy=strategy)
    assert len(set(found.item_ids)) == 8
    assert found.explanation
    if strategy in {"auto", "typical"}:
        assert {true_label(one) for one in found.item_ids[:4]} == set(CLASSES), "one of each cluster comes first"
    client.put_labels(name, [Label(item_id=one, label=true_label(one)) for one in found.item_ids])
    again = client.suggest_next(name, item_count=8, strategy=strategy)
    assert not set(found.item_ids) & set(again.item_ids)


def test_margin_asks_between_classes(client: Client, name: str) -> None:
    with pytest.raises(FailedPreconditionError, match="two classes"):
        client.suggest_next(name, strategy="margin")
    client.put_labels(name, first(100))
    assert client.suggest_next(name, strategy="auto").strategy == "margin"
    found = client.suggest_next(name, item_count=10, strategy="margin")
    said = client.classify(found.item_ids, support=name).results
    others = client.classify([item_id(i) for i in range(200, 210)], support=name).results
    assert np.mean([one.probability for one in said]) < np.mean([one.probability for one in others])  # type: ignore[union-attr]
    with pytest.raises(InvalidArgumentError, match="did you mean 'margin'"):
        client.suggest_next(name, strategy="margn")
    with pytest.raises(InvalidArgumentError, match="1 to 1,000"):
        client.suggest_next(name, item_count=1001)


def test_proposals_and_suggestions_keep_to_a_filter(client: Client, name: str) -> None:
    client.put_labels(name, first(40))
    other = f"{name}-other"
    client.create_label_set(other)
    client.put_labels(other, [Label(item_id=item_id(i), label="wanted") for i in range(50, 150)])
    equal = types_pb2.OPERATOR_IN
    labelled = types_pb2.Condition(
        column=f"labels.{other}", operator=equal, values=[types_pb2.Value(string_value="wanted")]
    )
    split = types_pb2.Condition(column="split", operator=equal, values=[types_pb2.Value(string_value="test")])
    both = types_pb2.FilterList(filters=[types_pb2.Filter(condition=one) for one in (labelled, split)])
    where = types_pb2.Filter(all_of=both)
    wanted = {item_id(i) for i in range(50, 150) if i % 5 == 0}
    assert client.propose(name, where=where).candidate_count == len(wanted)
    assert {one.item_id for one in client.list_proposals(name).proposals} <= wanted
    assert set(client.suggest_next(name, item_count=10, where=where).item_ids) <= wanted
    client.create_label_set(f"{name}-many", multi_label=True)
    labelled.column = f"labels.{name}-many"
    with pytest.raises(InvalidArgumentError, match="several labels"):
        client.propose(name, where=types_pb2.Filter(condition=labelled))
    labelled.column = "labels.none"
    with pytest.raises(LabelSetNotFoundError, match="none"):
        client.suggest_next(name, where=types_pb2.Filter(condition=labelled))
