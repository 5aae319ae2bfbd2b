"""A client in another language, made from the contract alone, gets the answers that ours gets."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.serving.conftest import DIMENSION, vector_server, vector_store
from vicinal.client import Client

pytestmark = pytest.mark.e2e
__all__ = ["vector_server", "vector_store"]
SOURCE = Path(__file__).parent / "node_client"
PROTOS = Path(__file__).parents[2] / "protos"


@pytest.fixture(scope="module")
def node_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed: apt-get install nodejs npm")
    place = tmp_path_factory.mktemp("node") / "client"
    shutil.copytree(SOURCE, place, ignore=shutil.ignore_patterns("node_modules"))
    words = ["npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=50, check=False)
    if done.returncode:
        pytest.skip(f"npm could not install the packages: {done.stderr.strip()[-200:]}")
    return place


def test_a_node_client_gets_the_same_answers(node_client: Path, vector_server: str) -> None:
    words = ["node", "client.js", vector_server, str(PROTOS), str(DIMENSION)]
    done = subprocess.run(words, cwd=node_client, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    x_D = np.sin(np.arange(1, DIMENSION + 1))
    with Client(vector_server) as client:
        by_vector = client.search(x_D, neighbor_count=3)
        by_item = client.search(by_vector.item_ids[0], neighbor_count=3)
    assert found["by_vector"]["item_ids"] == by_vector.item_ids
    np.testing.assert_allclose(found["by_vector"]["scores"], by_vector.scores, rtol=1e-5)
    assert found["by_item"]["item_ids"] == by_item.item_ids
    assert found["snapshot"]["fingerprint"] == by_vector.snapshot.fingerprint
    assert sorted(sequence for sequence, _ in found["streamed"]) == list(range(1, 21))
    assert all(item_ids == by_vector.item_ids for _, item_ids in found["streamed"])
    assert found["failure"]["code"] == 5
    assert "no item has the id" in found["failure"]["details"]
    assert found["failure"]["status"] == 1
