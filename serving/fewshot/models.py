"""Fitted models, kept until labels or snapshot change, or an item of the support does.

A stored label set is fitted once for a snapshot, version and classifier; the same inline support
sent again is recognised by its bytes. A swap brings a new snapshot, so a new fit.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from index.live import LiveSnapshot
from serving.fewshot import model as models
from serving.fewshot import support as supports
from serving.fewshot.model import FewshotModel, Support
from serving.generation import Generation
from serving.labels.log import LabelLog
from serving.queries import Queries
from vicinal.errors import InvalidLabelError
from vicinal.types import F32Array
from vicinal.v1 import fewshot_service_pb2 as pb

if TYPE_CHECKING:
    from serving.context import Call

Key = tuple[str, str, str, str, int, str]
_KEPT = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A fitted model and the version of the label set it was fitted to."""

    model: FewshotModel
    """The model."""
    version: int
    """Version of the stored label set; 0 for inline support."""


class Models:
    """Fits models and keeps the newest of them.

    Args:
        log: where label sets are stored.
        queries: resolves inline support.
    """

    def __init__(self, log: Callable[[], LabelLog], queries: Queries) -> None:
        self._log = log
        self._queries = queries
        self._kept: OrderedDict[Key, Fit] = OrderedDict()
        self._busy: dict[Key, threading.Lock] = {}
        self._centers: OrderedDict[tuple[str, str], F32Array] = OrderedDict()
        self._labelled: OrderedDict[tuple[str, int], frozenset[str]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, generation: Generation, support: pb.Support, *, classifier: str, call: "Call") -> Fit:
        """Returns the model of a support set, fitting it if it is not kept.

        Args:
            generation: whose embeddings count.
            support: inline or stored.
            classifier: a name of ``serving.classifiers``.
            call: whose deadline is checked.

        Raises:
            InvalidLabelError: no support, or a bad one.
            LabelSetNotFoundError: no such label set or version.
        """
        name, version, digest = self._identify(support)
        changed = self._changed(generation, support, version)
        key = (generation.ref.name, generation.ref.fingerprint, changed, name + digest, version, classifier)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            busy = self._busy.setdefault(key, threading.Lock())
        with busy:  # others that want the same fit wait for it
            fit = self._kept.get(key)
            if fit is None:
                call.check()
                center_D = self.center(generation)
                learned = models.fit(self.support(generation, support, call), classifier=classifier, center_D=center_D)
                fit = Fit(model=learned, version=version)
                self._keep(key, fit)
        return fit

    def support(self, generation: Generation, support: pb.Support, call: "Call") -> Support:
        """Returns the embeddings and labels of a support set."""
        if support.WhichOneof("support") == "inline":
            return supports.from_inline(generation, self._queries, support.inline.examples, call)
        name, version, _ = self._identify(support)
        return supports.from_items(generation, self._log().labels_of_items(name, version=version))

    def center(self, generation: Generation) -> F32Array:
        """Returns the mean embedding of a snapshot, computed once."""
        key = (generation.ref.name, generation.ref.fingerprint)
        with self._lock:
            if key in self._centers:
                return self._centers[key]
        center_D = supports.corpus_center(generation)
        with self._lock:
            self._centers[key] = center_D
            while len(self._centers) > _KEPT:
                self._centers.popitem(last=False)
        return center_D

    def _changed(self, generation: Generation, support: pb.Support, version: int) -> str:
        """Returns what tells apart how upserts and deletions changed items of a support set; empty for not at all."""
        if not isinstance(generation.snapshot, LiveSnapshot):
            return ""
        places = generation.snapshot.items.places
        touched = sorted((name, places[name]) for name in self._item_ids(support, version) if name in places)
        return hashlib.sha256(repr(touched).encode()).hexdigest() if touched else ""

    def _item_ids(self, support: pb.Support, version: int) -> frozenset[str]:
        if support.WhichOneof("support") == "inline":
            return frozenset(example.query.item_id for example in support.inline.examples if example.query.item_id)
        key = (support.label_set.name, version)
        with self._lock:
            known = self._labelled.get(key)
        if known is None:
            known = frozenset(name for name, _ in self._log().labels_of_items(key[0], version=version))
            with self._lock:
                self._labelled[key] = known
                while len(self._labelled) > _KEPT:
                    self._labelled.popitem(last=False)
        return known

    def _identify(self, support: pb.Support) -> tuple[str, int, str]:
        form = support.WhichOneof("support")
        if form is None:
            raise InvalidLabelError("no support; give labelled examples or the name of a label set", field="support")
        if form == "inline":
            digest = hashlib.sha256(support.SerializeToString(deterministic=True)).hexdigest()
            return "", 0, digest
        wanted = support.label_set.version if support.label_set.HasField("version") else None
        return support.label_set.name, self._log().check_version(support.label_set.name, wanted), ""

    def _keep(self, key: Key, fit: Fit) -> None:
        with self._lock:
            self._kept[key] = fit
            self._busy.pop(key, None)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
