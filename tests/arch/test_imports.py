"""What a process imports is what it needs: the client is light, the server has no trainer."""

import subprocess
import sys

import pytest


def imported(statement: str) -> set[str]:
    """Returns the top-level names of the modules that a fresh interpreter has after a statement."""
    script = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_client_needs_no_stage_and_nothing_heavy():
    heavy = {"torch", "torchvision", "faiss", "lightning", "pyarrow", "PIL", "msgspec", "matplotlib", "safetensors"}
    assert not imported("import vicinal.client") & (heavy | {"trainer", "index", "serving"})


@pytest.mark.slow
def test_the_server_imports_neither_trainer_nor_lightning():
    assert not imported("import serving.server, serving.commands") & {"trainer", "lightning", "tensorboard"}


@pytest.mark.slow
def test_trainer_and_index_never_import_each_other():
    assert "trainer" not in imported("import index.commands, index.build, index.refresh, index.embed")
    assert not imported("import trainer.commands, trainer.pretrain, trainer.evaluate") & {"index", "serving", "faiss"}
