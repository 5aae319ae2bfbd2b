"""Compares the protos with those of the last landed commit: `buf breaking` where there is one to compare with."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def base() -> str | None:
    """Returns the commit to compare with: where this branch left the upstream main, or the commit before this one."""
    head = _git("rev-parse", "HEAD")
    for words in (["merge-base", "HEAD", "origin/main"], ["rev-parse", "--verify", "--quiet", "HEAD~1"]):
        commit = _git(*words)
        # On main itself, as in a fresh clone, the merge base is HEAD, and nothing could ever differ from it.
        if commit and commit != head and _git("ls-tree", "--name-only", commit, "buf.yaml"):
            return commit
    return None


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def main() -> int:
    """Runs the comparison; the exit code is buf's."""
    commit = base()
    if commit is None:
        sys.stdout.write("proto compatibility: nothing to compare with\n")
        return 0
    buf = Path(sys.executable).parent / "buf"
    against = f".git#ref={commit}"
    return subprocess.run([buf, "breaking", "--against", against], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
