"""Runs the contract suite against the Milvus server of the PyPI package; for a network namespace of its own.

    python -m tests.index.milvus_in_namespace FOLDER NAMESPACE

The server listens on every interface and cannot be told otherwise, so it is not started in NAMESPACE, the caller's.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.index.milvus_server import ROOT, environment, real_server

SUITE = ["tests/index/test_kinds_contract.py", "-k", "milvus and not l2 and not inner_product and not out_of_range"]


def main() -> int:
    """Starts the server, runs the tests with it, and returns their exit code."""
    if str(Path("/proc/self/ns/net").readlink()) == sys.argv[2]:
        sys.stderr.write("this is no network namespace of its own\n")
        return 2
    with real_server(environment() / "bin" / "milvus-server", Path(sys.argv[1])) as uri:
        os.environ["VICINAL_TEST_MILVUS_URI"] = uri
        options = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider", "--timeout", "120", f"--rootdir={ROOT}"]
        return int(pytest.main([*SUITE, *options]))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.SubprocessError as error:
        sys.exit(str(error))
