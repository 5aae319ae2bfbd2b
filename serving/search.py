"""Answers search requests: options out of the message, queries into vectors, one call of the index, a reply."""

from collections.abc import Iterator

import numpy as np

from index.search import SearchOptions, SearchPlan
from index.search import search as search_index
from serving.config import LimitsConfig
from serving.context import Call
from serving.generation import Generation
from serving.labels.columns import PREFIX, Columns, label_columns, named_columns
from serving.labels.log import shared_log
from serving.options import decode_options, decode_page, next_page_token
from serving.queries import Queries, Resolved
from serving.replies import encode_all, encode_neighbors
from vicinal.codec import decode_vectors, encode_error
from vicinal.errors import InvalidArgumentError
from vicinal.store import Store
from vicinal.v1 import search_service_pb2 as pb
from vicinal.v1 import types_pb2


class Searcher:
    """Answers queries within the limits of a server.

    Args:
        limits: the limits.
        queries: turns queries into vectors.
        store: the workspace, whose label sets a filter may name.
    """

    def __init__(self, limits: LimitsConfig, queries: Queries, store: Store) -> None:
        self._limits = limits
        self._queries = queries
        self._store = store

    def search(self, generation: Generation, request: pb.SearchRequest, call: Call) -> pb.SearchResponse:
        """Answers Search.

        Args:
            generation: the snapshot that answers.
            request: the message.
            call: whose deadline is checked.

        Raises:
            VicinalError: of the class that says what was wrong.
        """
        page = decode_page(request.options.page_token, snapshot="").page if request.options.page_token else None
        options = decode_options(request.options, limits=self._limits, query_count=1, page=page)
        resolved = self._queries.resolve(generation, [request.query], call, bridging=True)
        resolved.raise_first()
        call.check()
        own_rows_Q = None if request.options.include_query_item else resolved.own_rows_Q
        columns = self._columns(generation, options)
        with call.part("search"):
            found, plan = search_index(
                generation.snapshot, resolved.x_QD, options, exclude_rows=own_rows_Q, columns=columns
            )
        count = int(found.counts_Q[0])
        neighbors = encode_neighbors(
            generation.snapshot.items,
            found.rows_QK[0, :count],
            found.scores_QK[0, :count],
            full=request.options.item_view == types_pb2.ITEM_VIEW_FULL,
        )
        return pb.SearchResponse(
            neighbors=neighbors,
            snapshot=generation.ref_message,
            plan=encode_plan(plan, bridged=resolved.bridged),
            next_page_token=next_page_token(found, options, snapshot=generation.ref.name),
        )

    def batch(self, generation: Generation, request: pb.BatchSearchRequest, call: Call) -> pb.BatchSearchResponse:
        """Answers BatchSearch.

        Args:
            generation: the snapshot that answers.
            request: the message.
            call: whose deadline is checked.

        Raises:
            VicinalError: of the class that says what was wrong with all of it.
        """
        if request.options.page_token:
            raise InvalidArgumentError("BatchSearch has no pages; use Search", field="options.page_token")
        resolved = self._batch_vectors(generation, request, call)
        x_QD, errors = resolved.x_QD, resolved.errors
        options = decode_options(request.options, limits=self._limits, query_count=len(x_QD))
        good_Q = np.flatnonzero([error is None for error in errors])
        own_rows_Q = resolved.own_rows_Q[good_Q]
        rows_Q = None if request.options.include_query_item or (own_rows_Q < 0).all() else own_rows_Q
        call.check()
        reply = pb.BatchSearchResponse(snapshot=generation.ref_message)
        encoded: Iterator[types_pb2.Neighbors] = iter(())
        full = request.options.item_view == types_pb2.ITEM_VIEW_FULL
        if good_Q.size:
            good_x_QD = x_QD if good_Q.size == len(x_QD) else x_QD[good_Q]
            columns = self._columns(generation, options)
            with call.part("search"):
                found, plan = search_index(
                    generation.snapshot, good_x_QD, options, exclude_rows=rows_Q, columns=columns
                )
            reply.plan.CopyFrom(encode_plan(plan, bridged=resolved.bridged))
            call.check()
            encoded = iter(encode_all(generation.snapshot.items, found, full=full))
        for error in errors:
            if error is not None:
                reply.results.append(pb.SearchResult(error=encode_error(error)))
            else:
                reply.results.append(pb.SearchResult(neighbors=next(encoded)))
        return reply

    def _columns(self, generation: Generation, options: SearchOptions) -> Columns:
        names = named_columns(options.filter) if options.filter is not None else []
        if options.grouping is not None and options.grouping.column.startswith(PREFIX):
            names.append(options.grouping.column)
        return label_columns(lambda: shared_log(self._store), generation, names)

    def _batch_vectors(self, generation: Generation, request: pb.BatchSearchRequest, call: Call) -> Resolved:
        given = len(request.queries)
        if request.HasField("vectors") == bool(given):
            raise InvalidArgumentError("set exactly one of vectors and queries", field="vectors")
        if given:
            self._check_batch(given)
            return self._queries.resolve(generation, request.queries, call, bridging=True)
        x_QD = decode_vectors(request.vectors)
        self._check_batch(len(x_QD))
        return self._queries.resolve_vectors(generation, x_QD, request.vectors.fingerprint)

    def _check_batch(self, count: int) -> None:
        if not 1 <= count <= self._limits.max_batch_queries:
            raise InvalidArgumentError(
                f"{count} queries in a batch, wanted 1 to {self._limits.max_batch_queries}", field="queries"
            )


def encode_plan(plan: SearchPlan, *, bridged: bool) -> pb.SearchPlan:
    """Encodes how a search was answered.

    Args:
        plan: of the index.
        bridged: whether a query came from another encoder's space.
    """
    return pb.SearchPlan(
        strategy=plan.strategy,
        effort=plan.effort,
        expected_recall=plan.expected_recall,
        bridged=bridged,
    )
