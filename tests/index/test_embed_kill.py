"""An embed job that is killed at random moments."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.corpora import add_encoder, fill, image_bytes
from vicinal.store import Store

KILLS = int(os.environ.get("VICINAL_KILLS", "10"))
"""Set to 200 for the full campaign."""


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(240 + 3 * KILLS)
def test_a_job_killed_at_random_moments_ends_byte_for_byte_the_same(tmp_path: Path) -> None:
    add_encoder(Store.create(tmp_path / "reference"))
    corpus = fill(tmp_path / "corpus", 40)
    for number in range(5):
        (corpus / f"copy{number}.png").write_bytes(image_bytes(number * 7))
        (corpus / f"bad{number}.png").write_text("no image")
    seed = int.from_bytes(os.urandom(4))

    command = [sys.executable, "-m", "tests.index.kill_embed", str(tmp_path), str(KILLS), str(seed)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200 + 3 * KILLS)

    assert run.returncode == 0, f"seed {seed}: {run.stdout}{run.stderr}"
    assert "kills in" in run.stdout
