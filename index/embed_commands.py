"""``vicinal embed``."""

import json
from pathlib import Path

import click


@click.command()
@click.argument("corpora", nargs=-1, required=True, metavar="CORPUS...")
@click.option(
    "--workspace",
    "-w",
    type=click.Path(path_type=Path),
    envvar="VICINAL_WORKSPACE",
    default="workspace",
    show_default=True,
    help="Where artifacts are kept.",
)
@click.option("--encoder", default="latest", show_default=True, help="Version of the encoder.")
@click.option(
    "--base",
    default="auto",
    show_default=True,
    help="Embeddings whose vectors are reused by content: a version, auto or none.",
)
@click.option("--batch-size", type=click.IntRange(min=0), default=0, help="Images of one forward pass; 0 chooses.")
@click.option(
    "--shard-size", type=click.IntRange(min=1), default=2048, show_default=True, help="Items committed together."
)
@click.option("--workers", type=click.IntRange(min=0), default=0, help="Threads that read and decode; 0 chooses.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")
@click.option("--reread", is_flag=True, help="Read every item, also where its size and times have not changed.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def embed(
    corpora: tuple[str, ...],
    *,
    workspace: Path,
    encoder: str,
    base: str,
    batch_size: int,
    shard_size: int,
    workers: int,
    device: str,
    reread: bool,
    as_json: bool,
) -> None:
    """Embed corpora with an encoder; killed, it goes on where it was when it is run again.

    CORPUS is [name=][kind:]PLACE[?option=value&...]: a folder, a zip or tar archive, IDX files. Every
    kind knows the options limit, offset, stride and under. Ids are paths inside the corpus, after the name.

    Under torchrun or Slurm each process embeds its own shards and the first one merges.
    """
    from rich.console import Console

    from index.embed import EmbedOptions
    from index.embed import embed as run
    from index.embed_progress import EmbedBar
    from vicinal.store import Store

    options = EmbedOptions(
        batch_size=batch_size, shard_size=shard_size, workers=workers, device=device, trust_stamps=not reread
    )
    with EmbedBar(Console(stderr=True)) as bar:
        report = run(
            Store(workspace),
            corpora,
            encoder=encoder,
            base=None if base == "none" else base,
            options=options,
            progress=bar.update,
        )
    if report.version is None:
        return  # rank 0 merges, and says what came out
    if as_json:
        click.echo(
            json.dumps(
                {
                    "embeddings": report.version,
                    "count": report.count,
                    "new_count": report.new_count,
                    "reused_count": report.reused_count,
                    "unique_count": report.unique_count,
                    "quarantined_count": report.quarantined_count,
                    "seconds": round(report.seconds, 3),
                }
            )
        )
    else:
        click.echo(
            f"embeddings {report.version}: {report.count} items, {report.new_count} new, {report.reused_count} reused, "
            f"{report.count - report.unique_count} of repeated content, {report.quarantined_count} quarantined, "
            f"in {report.seconds:.1f} s"
        )
        if report.quarantined_count:
            click.echo(f"why: {workspace}/embeddings/{report.version}/quarantine.jsonl")
