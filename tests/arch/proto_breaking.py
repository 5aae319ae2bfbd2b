"""Compares the protos with those of the last landed commit: `buf breaking` where there is one to compare with."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def base() -> str | None:
    """Returns the commit to compare with: the merge base with the upstream main, else the commit before this one."""
    for words in (["merge-base", "HEAD", "origin/main"], ["rev-parse", "--verify", "HEAD~1"]):
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        commit = done.stdout.strip()
        tracked = ["git", "cat-file", "-e", f"{commit}:buf.yaml"]
        if done.returncode == 0 and subprocess.run(tracked, cwd=ROOT, check=False, capture_output=True).returncode == 0:
            return commit
    return None


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
