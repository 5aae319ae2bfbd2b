"""Brings the vectors of other encoders into the space of the snapshot that answers, where there is a bridge."""

import threading
import time
from collections import OrderedDict

from index.bridge import Bridge, find_bridge
from vicinal.codec import decode_vector
from vicinal.errors import FingerprintMismatchError
from vicinal.store import Store
from vicinal.types import F32Array
from vicinal.v1 import types_pb2

_REMEMBERED = 32
_LOOK_AGAIN_S = 1.0


class Crossing:
    """Brings the vectors of one request into the space of the snapshot that answers.

    Args:
        bridges: the bridges; None takes no vectors of other encoders.
        end: fingerprint of the snapshot.
    """

    def __init__(self, bridges: "Bridges | None", end: str) -> None:
        self._bridges = bridges
        self._end = end
        self.bridged = False
        """Whether any was of another space."""

    def own(self, vector: types_pb2.Vector, *, field: str) -> F32Array:
        """Decodes one vector and brings it here.

        Returns:
            float32, shape (D,).

        Raises:
            InvalidVectorError: torn or empty.
            FingerprintMismatchError: it is of another encoder, and there is no bridge or none may be taken.
        """
        x_D = decode_vector(vector, field=field)
        return self.bring(x_D[None], vector.fingerprint, field=field)[0] if vector.fingerprint else x_D

    def bring(self, x_QD: F32Array, fingerprint: str, *, field: str) -> F32Array:
        """Brings vectors of one encoder here; see ``own``.

        Args:
            x_QD: vectors, float32.
            fingerprint: of their encoder; empty for the snapshot's own.
            field: where they stand in the request, for the error.
        """
        if not fingerprint or fingerprint == self._end:
            return x_QD
        if self._bridges is None:
            raise _mismatch(fingerprint, self._end, "a vector of another encoder can only be searched with", field)
        found_QE = self._bridges.cross(x_QD, begin=fingerprint, end=self._end, field=field)
        self.bridged = True
        return found_QE


def _mismatch(begin: str, end: str, why: str, field: str) -> FingerprintMismatchError:
    return FingerprintMismatchError(
        f"the vector is of fingerprint {begin[:12]!r}, the snapshot that answers of {end[:12]!r}: {why}",
        field=field,
        metadata={"fingerprint": begin[:64], "wanted": end},
    )


class Bridges:
    """The bridges of a workspace; safe for many threads.

    Args:
        store: the workspace.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], tuple[Bridge | None, float]] = OrderedDict()

    def cross(self, x_QD: F32Array, *, begin: str, end: str, field: str) -> F32Array:
        """Maps vectors from one space to another.

        Args:
            x_QD: vectors, float32.
            begin: fingerprint of their encoder.
            end: fingerprint of the snapshot that answers.
            field: where they stand in the request, for the error.

        Returns:
            float32 (Q, E), of the dimension of the snapshot.

        Raises:
            FingerprintMismatchError: there is no bridge.
            DimensionMismatchError: they do not have the dimension of their space.
        """
        bridge = self._find(begin, end)
        if bridge is None:
            raise _mismatch(
                begin, end, "no bridge is between them; embed with its own encoder, or run: vicinal bridge", field
            )
        return bridge.apply(x_QD, fingerprint=begin)

    def _find(self, begin: str, end: str) -> Bridge | None:
        with self._lock:
            bridge, looked_s = self._known.get((begin, end), (None, -_LOOK_AGAIN_S))
            if bridge is None and time.monotonic() - looked_s >= _LOOK_AGAIN_S:
                # Not for every wrong query anew: a look reads the manifests of all bridges.
                bridge = find_bridge(self._store, begin, end)
                self._known[begin, end] = (bridge, time.monotonic())
                while len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)
            return bridge
