"""What earlier plans of the same job had embedded: their vectors are taken over by digest.

A corpus that changes while its job is dead makes another plan, whose shards are other files. The
contents are mostly the same, and none of them is embedded again.
"""

from collections import OrderedDict
from pathlib import Path

import numpy as np

from index.embed_shards import DigestIndex, read_shard
from vicinal.types import BoolArray, F32Array, I64Array, U8Array

_HELD_SHARDS = 4
_SLOT_BITS = 32


class Salvage:
    """Vectors in the shards of earlier plans.

    Args:
        directory: the job's directory.
        current: name of the directory in it that holds the shards of the current plan.
        dimension: D.
    """

    def __init__(self, directory: Path, *, current: str, dimension: int) -> None:
        self._dimension = dimension
        self._index = DigestIndex()
        self._held: OrderedDict[int, F32Array] = OrderedDict()
        places = sorted(path for path in directory.glob("shards-*") if path.name != current)
        self._paths = sorted(path for place in places for path in place.glob("*.npz"))
        for number, path in enumerate(self._paths):
            shard = read_shard(path, dimension=dimension)
            if shard is None:
                continue
            rows_n = np.flatnonzero(shard.states_N >= 0)
            new_n = rows_n[self._index.find(shard.digests_N32[rows_n]) < 0]
            _, first_n = np.unique(shard.states_N[new_n], return_index=True)
            new_n = new_n[first_n]
            slots_n = shard.states_N[new_n].astype(np.int64)
            self._index.add(shard.digests_N32[new_n], (number << _SLOT_BITS) + slots_n)

    def __len__(self) -> int:
        return len(self._index)

    def find(self, digests_N32: U8Array) -> I64Array:
        """Returns where the vector of each digest is, for ``vector``, or -1."""
        return self._index.find(digests_N32)

    def has(self, digests_N32: U8Array) -> BoolArray:
        """Returns which digests have a vector."""
        return self._index.find(digests_N32) >= 0

    def vector(self, place: int) -> F32Array:
        """Returns the vector, float32 (D,), at a place that ``find`` gave."""
        number, slot = place >> _SLOT_BITS, place & ((1 << _SLOT_BITS) - 1)
        if number not in self._held:
            shard = read_shard(self._paths[number], dimension=self._dimension)
            assert shard is not None, "it could be read when the job began"
            self._held[number] = shard.vectors_UD
            if len(self._held) > _HELD_SHARDS:
                self._held.popitem(last=False)
        vector: F32Array = self._held[number][slot]
        return vector
