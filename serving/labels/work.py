"""What LabelService does that needs both the log and a snapshot."""

from typing import TYPE_CHECKING

import numpy as np

from index.live import alive_rows
from serving.fewshot.models import Fit, Models
from serving.generation import Generation
from serving.labels import proposals
from serving.labels.columns import allowed_rows
from serving.labels.encode import encode_set
from serving.labels.log import LabelLog
from serving.labels.propose import Wanted, propose
from serving.labels.suggest import COUNT_LIMIT, Known, choose_strategy, suggest
from vicinal.errors import FailedPreconditionError, InvalidArgumentError, InvalidLabelError
from vicinal.types import I64Array
from vicinal.v1 import fewshot_service_pb2, types_pb2
from vicinal.v1 import label_service_pb2 as pb

if TYPE_CHECKING:
    from serving.context import Call

PROPOSAL_LIMIT = 1_000_000
_DEFAULT_PROPOSALS = 10_000
_DEFAULT_PROBABILITY = 0.5
_DEFAULT_SUGGESTIONS = 20


class LabelWork:
    """Proposals, suggestions and counts.

    Args:
        log: the label log.
        models: fitted models.
    """

    def __init__(self, log: LabelLog, models: Models) -> None:
        self._log = log
        self._models = models

    def propose(self, generation: Generation, request: pb.ProposeRequest, call: "Call") -> pb.ProposeResponse:
        """Runs a classifier over unlabelled items and keeps what it proposes."""
        count = request.proposal_count or _DEFAULT_PROPOSALS
        least = request.min_probability if request.HasField("min_probability") else _DEFAULT_PROBABILITY
        if not 1 <= count <= PROPOSAL_LIMIT:
            raise InvalidArgumentError(
                f"proposal_count is {count}, wanted 1 to {PROPOSAL_LIMIT:,}", field="proposal_count"
            )
        if not 0 <= least <= 1:
            raise InvalidArgumentError(f"min_probability is {least:g}, wanted 0 to 1", field="min_probability")
        rows = self._open_rows(generation, request.name, request.filter if request.HasField("filter") else None)
        fit = self._fit(generation, request.name, request.classifier or "auto", call)
        found = propose(
            generation,
            fit,
            rows=rows,
            rejected=proposals.rejected(self._log, request.name),
            wanted=Wanted(min_probability=least, count=count),
            call=call,
        )
        proposals.replace(self._log, request.name, found)
        return pb.ProposeResponse(
            proposal_count=len(found),
            candidate_count=rows.size,
            classifier=fit.model.head.name,
            snapshot=generation.ref_message,
        )

    def suggest(self, generation: Generation, request: pb.SuggestNextRequest, call: "Call") -> pb.SuggestNextResponse:
        """Chooses items worth labelling."""
        count = request.item_count or _DEFAULT_SUGGESTIONS
        if not 1 <= count <= COUNT_LIMIT:
            raise InvalidArgumentError(f"item_count is {count}, wanted 1 to {COUNT_LIMIT:,}", field="item_count")
        version = self._log.check_version(request.name, None)
        known = self._known(generation, request.name, call)
        strategy = choose_strategy(request.strategy, known)
        rows = self._open_rows(generation, request.name, request.filter if request.HasField("filter") else None)
        found = suggest(generation, known, allowed=rows, count=count, strategy=strategy, seed=version)
        return pb.SuggestNextResponse(
            item_ids=generation.snapshot.items.item_ids(found.rows),
            strategy=found.strategy,
            explanation=found.explanation,
            snapshot=generation.ref_message,
        )

    def describe(self, generation: Generation | None, name: str, version: int | None) -> pb.LabelSet:
        """Returns a label set with the number of its items that the snapshot does not hold."""
        found = self._log.get_set(name, version=version)
        missing_count = 0
        if generation is not None:
            items = {row.item_id for row in self._log.labels(name, version=version)}
            missing_count = count_missing(generation, items)
        return encode_set(found, missing_count=missing_count)

    def _open_rows(self, generation: Generation, name: str, wanted: types_pb2.Filter | None) -> I64Array:
        open_N = alive_rows(generation.snapshot)
        if wanted is not None:
            open_N &= allowed_rows(self._log, generation, wanted)
        for item_id in self._log.labelled_items(name):
            row = generation.snapshot.items.find(item_id)
            if row is not None:
                open_N[row] = False
        return np.flatnonzero(open_N)

    def _known(self, generation: Generation, name: str, call: "Call") -> Known:
        rows = [generation.snapshot.items.find(item_id) for item_id in sorted(self._log.labelled_items(name))]
        try:
            model = self._fit(generation, name, "auto", call).model
        except (InvalidLabelError, FailedPreconditionError):
            model = None
        class_count = len(model.support.classes) if model is not None else 0
        return Known(
            rows=np.array([row for row in rows if row is not None], dtype=np.int64),
            class_count=class_count,
            model=model if class_count > 1 else None,
            center_D=self._models.center(generation),
        )

    def _fit(self, generation: Generation, name: str, classifier: str, call: "Call") -> Fit:
        support = fewshot_service_pb2.Support(label_set=fewshot_service_pb2.LabelSetRef(name=name))
        return self._models.get(generation, support, classifier=classifier, call=call)


def count_missing(generation: Generation, item_ids: set[str]) -> int:
    """Returns how many of the items a snapshot does not hold."""
    return sum(generation.snapshot.items.find(item_id) is None for item_id in item_ids)
