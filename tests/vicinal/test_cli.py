"""The command line: errors are one line, help imports no stage."""

import subprocess
import sys

import click
import pytest

from vicinal import cli
from vicinal.errors import InvalidConfigError, NoActiveSnapshotError


def test_every_verb_can_be_loaded_and_has_help(capsys):
    for name in cli.VERBS:
        assert cli.run([name, "--help"]) == 0, name
        assert "Usage: vicinal" in capsys.readouterr().out


def test_help_imports_no_heavy_package():
    script = (
        "import sys; from vicinal.cli import run; run(['--help']); "
        "heavy = {'torch', 'faiss', 'lightning', 'pyarrow', 'PIL', 'grpc'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "refresh" in done.stdout


def test_misspelt_verb_is_suggested(capsys):
    assert cli.run(["pretrian"]) == 2
    assert "did you mean 'pretrain'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (NoActiveSnapshotError("nothing is active"), 1, "error: nothing is active"),
        (InvalidConfigError("wrong key"), 2, "error: wrong key"),
        (click.Abort(), 130, "interrupted"),
        (click.UsageError("bad usage"), 2, "bad usage"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 1, "pip install 'vicinal[service]'"),
        (PermissionError(13, "Permission denied", "/secret"), 1, "error: Permission denied: /secret"),
        (RuntimeError("a bug"), 1, "internal error: RuntimeError: a bug; set VICINAL_DEBUG=1"),
    ],
)
def test_errors_become_one_line_and_an_exit_code(monkeypatch, capsys, error, code, text):
    @click.command()
    def broken() -> None:
        raise error

    monkeypatch.delenv("VICINAL_DEBUG", raising=False)
    monkeypatch.setattr(cli, "_load", lambda name: broken)
    assert cli.run(["embed"]) == code
    shown = capsys.readouterr()
    assert text in shown.err
    assert "Traceback" not in shown.err + shown.out


def test_debug_shows_the_traceback(monkeypatch):
    @click.command()
    def broken() -> None:
        raise NoActiveSnapshotError("nothing")

    monkeypatch.setenv("VICINAL_DEBUG", "1")
    monkeypatch.setattr(cli, "_load", lambda name: broken)
    with pytest.raises(NoActiveSnapshotError):
        cli.run(["embed"])


def test_main_exits_with_the_code(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert "vicinal" in capsys.readouterr().out
