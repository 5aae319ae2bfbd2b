"""The calls of LabelService about proposals and what to label next."""

from collections.abc import Sequence

from vicinal.client.call import Call
from vicinal.client.fewshot import label_set_name
from vicinal.client.label_results import (
    LabelBatch,
    Proposal,
    ProposalPage,
    ProposalRule,
    ProposeResult,
    SuggestResult,
    decode_changed,
    encode_rule,
    label_call,
)
from vicinal.codec import decode_ref
from vicinal.v1 import label_service_pb2 as pb
from vicinal.v1 import types_pb2


def propose(
    name: str,
    *,
    classifier: str = "auto",
    min_probability: float | None = None,
    proposal_count: int = 0,
    where: types_pb2.Filter | None = None,
    timeout_s: float | None = None,
) -> Call[ProposeResult]:
    """Proposes labels for unlabelled items by a classifier fitted to the set.

    Args:
        name: of the set.
        classifier: a name from ``list_classifiers``.
        min_probability: at least this probability, in [0, 1]; None for 0.5.
        proposal_count: this many at most; 0 for 10,000.
        where: only items that match this filter.
        timeout_s: seconds to wait for the answer; None takes the client's.
    """
    request = pb.ProposeRequest(
        name=label_set_name(name),
        classifier=classifier,
        min_probability=min_probability,
        proposal_count=proposal_count,
        filter=where,
    )
    return label_call("Propose", request, pb.ProposeResponse, _decode_propose, timeout_s=timeout_s, retry=False)


def list_proposals(
    name: str, *, label: str = "", page_size: int = 1000, page_token: str = "", timeout_s: float | None = None
) -> Call[ProposalPage]:
    """Lists open proposals, most certain first, a page at a time.

    Args:
        name: of the set.
        label: only this class.
        page_size: proposals a page, 1 to 10,000.
        page_token: from the last page.
        timeout_s: seconds to wait for the answer; None takes the client's.
    """
    request = pb.ListProposalsRequest(
        name=label_set_name(name), label=label, page_size=page_size, page_token=page_token
    )
    return label_call("ListProposals", request, pb.ListProposalsResponse, _decode_proposals, timeout_s=timeout_s)


def accept_proposals(
    name: str,
    item_ids: Sequence[str] = (),
    *,
    rule: ProposalRule | None = None,
    author: str = "",
    request_id: str = "",
    timeout_s: float | None = None,
) -> Call[LabelBatch]:
    """Accepts proposals, one by one or by a rule, as one batch that is undone as one.

    Args:
        name: of the set.
        item_ids: items whose proposals to accept.
        rule: or all that this chooses.
        author: who accepts.
        request_id: repeating a request with the same id has no further effect.
        timeout_s: seconds to wait for the answer; None takes the client's.
    """
    request = pb.AcceptProposalsRequest(
        name=label_set_name(name),
        item_ids=item_ids,
        rule=encode_rule(rule),
        author=author,
        request_id=request_id,
    )
    return label_call(
        "AcceptProposals",
        request,
        pb.AcceptProposalsResponse,
        decode_changed,
        timeout_s=timeout_s,
        retry=bool(request_id),
    )


def reject_proposals(
    name: str,
    item_ids: Sequence[str] = (),
    *,
    rule: ProposalRule | None = None,
    author: str = "",
    timeout_s: float | None = None,
) -> Call[LabelBatch]:
    """Rejects proposals, one by one or by a rule; they are not proposed again.

    Args:
        name: of the set.
        item_ids: items whose proposals to reject.
        rule: or all that this chooses.
        author: who rejects.
        timeout_s: seconds to wait for the answer; None takes the client's.
    """
    request = pb.RejectProposalsRequest(
        name=label_set_name(name), item_ids=item_ids, rule=encode_rule(rule), author=author
    )
    return label_call(
        "RejectProposals", request, pb.RejectProposalsResponse, decode_changed, timeout_s=timeout_s, retry=False
    )


def suggest_next(
    name: str,
    *,
    item_count: int = 20,
    strategy: str = "auto",
    where: types_pb2.Filter | None = None,
    timeout_s: float | None = None,
) -> Call[SuggestResult]:
    """Suggests the items that are worth labelling next.

    Args:
        name: of the set.
        item_count: wanted, 1 to 1,000.
        strategy: ``auto``, ``typical``, ``k_center``, ``margin`` or ``random``.
        where: only items that match this filter.
        timeout_s: seconds to wait for the answer; None takes the client's.
    """
    request = pb.SuggestNextRequest(name=label_set_name(name), item_count=item_count, strategy=strategy, filter=where)
    return label_call("SuggestNext", request, pb.SuggestNextResponse, _decode_suggest, timeout_s=timeout_s)


def _decode_propose(reply: pb.ProposeResponse) -> ProposeResult:
    return ProposeResult(
        proposal_count=reply.proposal_count,
        candidate_count=reply.candidate_count,
        classifier=reply.classifier,
        snapshot=decode_ref(reply.snapshot),
    )


def _decode_proposals(reply: pb.ListProposalsResponse) -> ProposalPage:
    return ProposalPage(
        proposals=[
            Proposal(
                item_id=one.item_id,
                label=one.label,
                probability=one.probability,
                score=one.score,
                evidence_item_ids=list(one.evidence_item_ids),
            )
            for one in reply.proposals
        ],
        next_page_token=reply.next_page_token,
    )


def _decode_suggest(reply: pb.SuggestNextResponse) -> SuggestResult:
    return SuggestResult(
        item_ids=list(reply.item_ids),
        strategy=reply.strategy,
        explanation=reply.explanation,
        snapshot=decode_ref(reply.snapshot),
    )
