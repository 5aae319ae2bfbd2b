"""The verb ``demo``."""

import shutil
from pathlib import Path

import click

_MARK = "demo.json"


@click.command()
@click.option(
    "--workspace", "-w", type=click.Path(path_type=Path), default=Path("demo/workspace"), show_default=True,
    help="Where to leave what was made; an earlier demo's is made anew.",
)  # fmt: skip
@click.option("--images", type=click.Path(path_type=Path), help="Folder with the IDX files of Fashion-MNIST.")
@click.option(
    "--size", type=click.Choice(["full", "small"]), default="full", show_default=True, help="small: a minute."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the pretraining and of every draw.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def demo(*, workspace: Path, images: Path | None, size: str, seed: int, as_json: bool) -> None:
    """Run the whole product on Fashion-MNIST and report.

    Pretrains an encoder without labels, embeds 60,000 images, builds and
    publishes an index, serves it, queries and classifies over gRPC, then
    refreshes it with 10,000 new images while a client keeps asking.
    """
    from rich.console import Console

    from vicinal.demo import report
    from vicinal.demo.images import find
    from vicinal.demo.run import SIZES, run
    from vicinal.demo.steps import Steps

    console = Console(stderr=as_json)
    found_images = find(images, cache=workspace.parent / "images")
    console.print(f"images: {found_images.folder} ({found_images.found})")
    prepare(workspace)
    folder = workspace / "reports" / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    steps = Steps(workspace=workspace, console=console)
    found = run(steps, found_images, SIZES[size], seed=seed, folder=folder)
    report.write(found, folder)
    report.show(found, folder, console, workspace=workspace)
    if as_json:
        click.echo((folder / "report.json").read_text(encoding="utf-8"))


def prepare(workspace: Path) -> None:
    """Makes a fresh workspace; removes what an earlier demo left there, and nothing else.

    Args:
        workspace: its directory.

    Raises:
        InvalidArgumentError: something else is there.
    """
    from vicinal.artifact import storage_guard
    from vicinal.errors import InvalidArgumentError
    from vicinal.store import Store

    with storage_guard(workspace):
        if (workspace / _MARK).is_file():
            shutil.rmtree(workspace)
        elif workspace.exists() and any(workspace.iterdir()):
            raise InvalidArgumentError(f"{workspace} holds something that no demo made; name another: --workspace")
        Store.create(workspace)
        (workspace / _MARK).write_text("{}\n", encoding="utf-8")
