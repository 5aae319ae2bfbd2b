"""The command line: verbs, paths and ``--set section.key=value``.

Verbs are named as text and imported when they run, so that help is instant and the light client
needs nothing that only a stage needs.
"""

import importlib
import os
import sys
from typing import Any, NoReturn

import click
from typing_extensions import override

from vicinal import __version__
from vicinal.errors import Code, VicinalError, did_you_mean

VERBS: dict[str, tuple[str, str]] = {
    "demo": ("vicinal.demo.commands:demo", "Run the whole product on real images and report."),
    "pretrain": ("trainer.commands:pretrain", "Train an encoder on unlabelled images."),
    "recipes": ("trainer.commands:recipes", "List published training runs and what came of them."),
    "export": ("trainer.commands:export", "Export an encoder from a run."),
    "evaluate-encoder": ("trainer.commands:evaluate_encoder", "Measure an encoder against baselines."),
    "embed": ("index.embed_commands:embed", "Embed a corpus with an encoder; resumable."),
    "build": ("index.commands:build", "Build a snapshot from embeddings, measured against exact search."),
    "evaluate": ("index.commands:evaluate", "Measure recall and latency of a snapshot."),
    "publish": ("index.commands:publish", "Put a snapshot in service, behind a gate."),
    "refresh": ("index.refresh_commands:refresh", "Take in new images: embed what is new, build, gate, publish."),
    "bridge": ("index.refresh_commands:bridge", "Answer one encoder's vectors from a snapshot of another."),
    "rollback": ("index.commands:rollback", "Go back to the snapshot served before."),
    "versions": ("index.commands:versions", "List the artifacts of a workspace."),
    "gc": ("index.commands:gc", "Remove old snapshots that nothing uses."),
    "serve": ("serving.commands:serve", "Serve the active snapshot over gRPC."),
    "keys": ("serving.commands:keys", "Make, list and revoke the API keys of a server."),
    "doctor": ("serving.commands:doctor", "Check machine, workspace and port, and say what is wrong."),
    "query": ("vicinal.client.commands:query", "Find the neighbors of an image or item."),
    "snapshots": ("vicinal.client.commands:snapshots", "List the snapshots of a server, or activate one."),
    "items": ("vicinal.client.item_commands:items", "Put, delete and show single items of a server."),
    "operations": ("vicinal.client.item_commands:operations", "Start, show and cancel a server's refreshes."),
    "classify": ("vicinal.client.fewshot_commands:classify", "Classify images by a few labelled ones."),
    "label": ("vicinal.client.fewshot_commands:label", "Keep label sets: put, propose, accept, undo, export."),
    "health": ("serving.labels.commands:health", "Find duplicates, outliers, likely label errors and leaks."),
    "evaluate-labels": ("vicinal.client.fewshot_commands:evaluate_labels", "Measure a label set."),
}
"""Every verb: where its command is, and its help line."""

_SERVICE_PACKAGES = frozenset(
    {"faiss", "lightning", "matplotlib", "msgspec", "PIL", "pyarrow", "safetensors", "torch", "torchvision"}
)


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        """Lists the verbs in the order of the data flow."""
        return list(VERBS)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Returns a verb; only its name and help line until it runs."""
        if cmd_name not in VERBS:
            ctx.fail(f"no such command {cmd_name!r}{did_you_mean(cmd_name, VERBS)}")
        if ctx.resilient_parsing:
            return click.Command(cmd_name)
        return _load(cmd_name)

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the help lines without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])


def _load(name: str) -> click.Command:
    place, _, attribute = VERBS[name][0].partition(":")
    command: click.Command = getattr(importlib.import_module(place), attribute)
    return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="vicinal")
def cli() -> None:
    """Turn your own unlabelled images into a similarity and few-shot service.

    Images are pretrained on, embedded, indexed, published as a snapshot and
    served; see README.md for five minutes of use. Set VICINAL_DEBUG=1 for a
    traceback with an error.
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command line and exits: 0, 1 for an error, 2 for wrong usage, 130 when interrupted."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: as on the command line, without the program's name; default: the process's.

    Returns:
        The exit code.
    """
    try:
        result: Any = cli.main(args=arguments, prog_name="vicinal", standalone_mode=False)
    except Exception as error:
        if os.environ.get("VICINAL_DEBUG"):
            raise
        return _report(error)
    return result if isinstance(result, int) else 0


def _report(error: Exception) -> int:
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        # The reader of our output has gone: nothing more to say, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    text, code = _explain(error)
    click.echo(text, err=True)
    return code


def _explain(error: Exception) -> tuple[str, int]:
    if isinstance(error, VicinalError):
        return f"error: {error.message}", 2 if error.code is Code.INVALID_ARGUMENT else 1
    if isinstance(error, click.Abort):
        return "interrupted", 130
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in _SERVICE_PACKAGES:
        return f"error: this command needs {error.name}; run: pip install 'vicinal[service]'", 1
    if isinstance(error, OSError):
        return f"error: {error.strerror or error}: {error.filename or ''}".rstrip(": "), 1
    return f"internal error: {type(error).__name__}: {error}; set VICINAL_DEBUG=1 for the traceback", 1
