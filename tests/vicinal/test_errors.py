"""The error tree: one reason a class, codes that gRPC knows, suggestions that help."""

import grpc
import pytest

from vicinal import errors, plugins
from vicinal.errors import Code, VicinalError, by_reason, did_you_mean


def test_every_class_has_its_own_reason_and_a_code_of_grpc():
    classes = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, VicinalError)]
    assert len(by_reason()) == len(classes)
    numbers = {status.value[0]: status.name for status in grpc.StatusCode}
    for code in Code:
        assert numbers[int(code)] == code.name


def test_did_you_mean_suggests_or_lists():
    assert did_you_mean("hnws", ["hnsw", "flat"]) == "; did you mean 'hnsw'?"
    assert did_you_mean("zzz", ["hnsw", "flat"]) == "; known: flat, hnsw"
    assert did_you_mean("zzz", []) == ""
    assert did_you_mean("zzz", [f"name{i:02}" for i in range(30)]).endswith("name19, ...")


def test_plugins_are_listed_by_file_name_and_unknown_ones_suggested():
    known = plugins.names("index.kinds")
    assert "flat" in known
    with pytest.raises(errors.InvalidArgumentError, match=r"unknown kind 'flatt'; did you mean 'flat'\?"):
        plugins.load("index.kinds", "flatt")
    assert plugins.load("index.kinds", "flat").__name__ == "index.kinds.flat"
