"""What the coded flat kinds share: every vector is scanned in a shorter form, the best are scored on the full ones."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from index.blas import load_faiss
from index.codes import check_range
from index.exact import Heaps, squared_norms
from index.ivf import check_shortlist
from index.kind import INDEX_FILE, Source
from index.storage import faiss_metric, read_faiss, write_faiss
from vicinal.types import F32Array, I64Array, Metric

SCAN = "scan"
"""The name of an effort that has one value: all rows are looked at, and time grows as they do."""
_ADD_BLOCK = 1 << 16
_DECODE_FLOATS = 1 << 20
_PRODUCT_QUERIES = 16
"""Queries from which decoding a block once and a matrix product beat FAISS's scan, which decodes for each query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatCodesParams:
    """Parameters of a scan over coded vectors."""

    shortlist: int = 2
    """Neighbours fetched for each one wanted and scored on the full vectors, 1 to 1,000; 1: not scored again."""


class FlatCodesKind:
    """A kind that scans codes of FAISS's scalar quantiser.

    Args:
        code: FAISS's name of the code, such as ``QT_fp16``.
        bytes_per_value: bytes of one coded value.
    """

    params_type: type = FlatCodesParams
    effort_name = SCAN

    def __init__(self, code: str, *, bytes_per_value: int) -> None:
        self._code = code
        self._bytes_per_value = bytes_per_value

    def resolve(self, params: FlatCodesParams, *, count: int, dimension: int) -> FlatCodesParams:
        """Checks the shortlist; see ``Kind``."""
        del count, dimension
        check_shortlist(params.shortlist)
        return params

    def shortlist_factor(self, params: FlatCodesParams) -> int:
        """Returns the parameter ``shortlist``; see ``Kind``."""
        return params.shortlist

    def efforts(self, params: FlatCodesParams, *, count: int) -> tuple[int, ...]:
        """Returns the one effort there is; see ``Kind``."""
        del params, count
        return (1,)

    def bytes_per_vector(self, params: FlatCodesParams, *, dimension: int) -> float:
        """Returns the bytes of a code; see ``Kind``."""
        del params
        return float(self._bytes_per_value * dimension)

    def build(self, source: Source, params: FlatCodesParams) -> None:
        """Learns the range of each value, where the code needs it, and writes the codes; see ``Kind``."""
        del params
        faiss = load_faiss()
        code = getattr(faiss.ScalarQuantizer, self._code)
        faiss_index = faiss.IndexScalarQuantizer(source.vectors_ND.shape[1], code, faiss_metric(source.metric))
        faiss_index.train(source.vectors_ND)
        self._add(faiss_index, source)

    def extend(self, previous: Path, source: Source, params: FlatCodesParams) -> None:
        """Adds the new rows' codes; see ``Kind``."""
        del params
        self._add(read_faiss(previous / INDEX_FILE, mapped=False), source)

    def open(self, directory: Path, *, metric: Metric) -> "FlatCodesSearcher":
        """Opens the codes, memory-mapped; see ``Kind``."""
        return FlatCodesSearcher(directory, metric)

    def _add(self, faiss_index: Any, source: Source) -> None:
        for start in range(faiss_index.ntotal, len(source.vectors_ND), _ADD_BLOCK):
            block_ND = source.vectors_ND[start : start + _ADD_BLOCK]
            check_range(block_ND, code=self._code)
            faiss_index.add(block_ND)
        write_faiss(faiss_index, source.directory / INDEX_FILE)


class FlatCodesSearcher:
    """Scans codes; the effort has no meaning."""

    def __init__(self, directory: Path, metric: Metric) -> None:
        self._index = read_faiss(directory / INDEX_FILE)
        self._metric = metric

    def search(self, x_QD: F32Array, *, neighbor_count: int, effort: int) -> I64Array:
        """Returns rows; see ``Searcher``."""
        del effort
        if len(x_QD) >= _PRODUCT_QUERIES:
            return self._by_products(x_QD, neighbor_count)
        rows_QK: I64Array = self._index.search(x_QD, neighbor_count)[1]
        return rows_QK

    def _by_products(self, x_QD: F32Array, count: int) -> I64Array:
        total, dimension = int(self._index.ntotal), x_QD.shape[1]
        heaps = Heaps(len(x_QD), count)
        step = max(256, _DECODE_FLOATS // max(dimension, len(x_QD)))
        doubled_QD = x_QD * np.float32(2)
        for start in range(0, total, step):
            y_ND: F32Array = self._index.reconstruct_n(start, min(step, total - start))
            scores_QN = doubled_QD @ y_ND.T - squared_norms(y_ND) if self._metric is Metric.L2 else x_QD @ y_ND.T
            heaps.add(np.ascontiguousarray(scores_QN), start)
        return heaps.finish()
