"""The same server over a snapshot whose vectors lie in Milvus."""

import numpy as np

from index.engines import milvus, milvus_place
from tests.serving.conftest import add_snapshot, config, make_vectors, running
from vicinal.client import Client
from vicinal.store import Store


def test_search_is_answered_from_milvus(milvus_uri: str, store: Store) -> None:
    x_ND = make_vectors(300)
    add_snapshot(store, x_ND, kind="milvus")
    store.activate("000001")
    with running(store, config()) as (_, address), Client(address) as client:
        found = client.search(x_ND[7], neighbor_count=5)
        assert (found.item_ids[0], found.plan.strategy) == ("item-00007", "index")
        exact = client.search(x_ND[7], neighbor_count=5, target_recall=1.0)
        np.testing.assert_allclose(found.scores, exact.scores, rtol=1e-5)
        batch = client.batch_search(x_ND[:20], neighbor_count=1)
        client.activate_snapshot("snapshots/000001")
        with milvus.connected(milvus_uri) as outside:
            place = milvus_place.read_place(store.path("snapshots", "1"))
            assert outside.describe_alias("vicinal_active")["collection_name"] == place.collection
        assert [result.item_ids[0] for result in batch.results] == [f"item-{row:05d}" for row in range(20)]  # type: ignore[union-attr]
