"""The commands of the server: serve, keys, doctor."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from serving.access import KeyFile


@click.command()
@click.option(
    "--workspace",
    "-w",
    type=click.Path(path_type=Path),
    envvar="VICINAL_WORKSPACE",
    default=Path("workspace"),
    show_default=True,
    help="Directory of encoders, embeddings and snapshots.",
)
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="TOML file; see serving/config.toml.")
@click.option("--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one setting.")
@click.option("--host", help="Address to listen on (listen.host).  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on, 0 for a free one (listen.port).  [default: 50051]")
@click.option("--processes", help="Worker processes, or auto for one a core (listen.processes).")
@click.option("--insecure", is_flag=True, help="Serve other machines without TLS or keys.")
@click.option("--snapshot", default="", metavar="NAME", help="Serve this snapshot alone, whatever is active.")
@click.option("--ready-file", type=click.Path(path_type=Path), help="Written (JSON) once the server answers.")
def serve(
    *,
    workspace: Path,
    config_path: Path | None,
    assignments: tuple[str, ...],
    host: str | None,
    port: int | None,
    processes: str | None,
    insecure: bool,
    snapshot: str,
    ready_file: Path | None,
) -> None:
    """Serve the active snapshot over gRPC, and every one that is published later.

    SIGTERM or Ctrl-C lets requests in flight end and exits 0. SIGHUP reads the file of --config again.
    """
    from serving.config import ServeConfig, load_config
    from serving.supervisor import Supervisor
    from serving.worker import core_count, run_alone, set_up_logging
    from vicinal.store import Store

    flags = [
        *([f"listen.host={host}"] if host is not None else []),
        *([f"listen.port={port}"] if port is not None else []),
        *([f"listen.processes={0 if processes == 'auto' else processes}"] if processes is not None else []),
        *(["listen.insecure=true"] if insecure else []),
    ]

    def source() -> ServeConfig:
        return load_config(config_path, assignments=[*assignments, *flags], environ=os.environ)

    config = source()
    set_up_logging(config.observe.log_level)
    worker_count = config.listen.processes or core_count()
    store, again = Store(workspace), source if config_path is not None else None
    if worker_count == 1:
        run_alone(store, config, fixed=snapshot, ready_file=ready_file, source=again)
        return
    supervisor = Supervisor(
        store, config, worker_count=worker_count, fixed=snapshot, ready_file=ready_file, source=again
    )
    supervisor.run()


@click.command()
@click.option(
    "--workspace",
    "-w",
    type=click.Path(path_type=Path),
    envvar="VICINAL_WORKSPACE",
    default=Path("workspace"),
    show_default=True,
    help="Directory of encoders, embeddings and snapshots.",
)
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="Configuration of the server.")
@click.option("--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one setting.")
@click.option("--quick", is_flag=True, help="Do not compare the checksums of the snapshot.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
def doctor(
    *, workspace: Path, config_path: Path | None, assignments: tuple[str, ...], quick: bool, as_json: bool
) -> None:
    """Check machine, packages, workspace, snapshot, port and keys, and say what is wrong.

    Exits 1 when something would keep the server from serving.
    """
    import json
    from dataclasses import asdict

    from rich.console import Console

    from serving.config import load_config
    from serving.doctor import examine

    config = load_config(config_path, assignments=assignments, environ=os.environ)
    findings = examine(workspace, config, verify=not quick)
    if as_json:
        click.echo(json.dumps({"findings": [asdict(finding) for finding in findings]}))
    else:
        console = Console(highlight=False)
        marks = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "error": "[red]error[/]"}
        for finding in findings:
            console.print(f"{marks[finding.state]:>20}  {finding.what}: {finding.message}", soft_wrap=True)
    if any(finding.state == "error" for finding in findings):
        raise click.exceptions.Exit(1)


@click.group()
@click.option(
    "--keys-file",
    type=click.Path(path_type=Path),
    envvar="VICINAL_SERVE__AUTH__KEYS_FILE",
    default=Path("keys.json"),
    show_default=True,
    help="File of keys (auth.keys_file of the server).",
)
@click.pass_context
def keys(context: click.Context, keys_file: Path) -> None:
    """Make, list and revoke the API keys of a server."""
    from serving.access import KeyFile

    context.obj = KeyFile(path=keys_file)


@keys.command("add")
@click.option(
    "--role", type=click.Choice(["reader", "labeler", "writer", "admin"]), default="reader", show_default=True
)
@click.option("--note", default="", help="Whose it is.")
@click.option("--expires-at", default="", metavar="ISO8601", help="Such as 2027-01-31T00:00:00+00:00.")
@click.pass_obj
def add_key(key_file: "KeyFile", role: str, note: str, expires_at: str) -> None:
    """Make a key and print it, this once; the file holds its hash alone."""
    click.echo(key_file.add(role, note=note, expires_at=expires_at))


@keys.command("list")
@click.pass_obj
def list_keys(key_file: "KeyFile") -> None:
    """List the keys; their secrets are not known."""
    for key in key_file.read().values():
        click.echo(f"{key.key_id}  {key.role:8}  {key.created_at}  {key.expires_at or 'never expires'}  {key.note}")


@keys.command("revoke")
@click.argument("key_id")
@click.pass_obj
def revoke_key(key_file: "KeyFile", key_id: str) -> None:
    """Revoke a key; servers that run notice within a second."""
    key_file.revoke(key_id)
    click.echo(f"key {key_id} is revoked")
