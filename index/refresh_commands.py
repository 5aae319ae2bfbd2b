"""The verb that takes in new images, once or again and again."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from index.commands import json_option, show, tell, workspace_option
from index.gate_options import gate_options

if TYPE_CHECKING:
    from index.refresh import RefreshConfig
    from index.retrain import Retrain
    from vicinal.store import Store

_ENDED = 143
"""Exit code after SIGTERM: 128 + 15."""


@click.command()
@click.argument("corpora", nargs=-1, metavar="[CORPUS...]")
@workspace_option
@json_option
@click.option(
    "--action",
    type=click.Choice(["auto", "add", "rebuild", "retrain"]),
    default="auto",
    show_default=True,
    help="add: keep the trained index; rebuild: train it anew; retrain: go on training the encoder, embed all anew.",
)
@click.option("--allow-retrain", is_flag=True, help="Let auto retrain where the drift report advises it.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Budget of retraining.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of retraining, as of pretrain.")
@click.option("--no-bridge", is_flag=True, help="Retrain without a bridge between the two encoders.")
@click.option("--prune", is_flag=True, help="Drop items that vanished from the corpora that are read.")
@click.option("--no-publish", is_flag=True, help="Build and measure, but leave what is served.")
@gate_options
@click.option("--every", metavar="TIME", help="Again and again, on a beat of so long, such as 1h, until SIGTERM.")
def refresh(
    *,
    corpora: tuple[str, ...],
    workspace: Path,
    as_json: bool,
    action: str,
    allow_retrain: bool,
    minutes: float | None,
    settings: tuple[str, ...],
    no_bridge: bool,
    prune: bool,
    no_publish: bool,
    gates: dict[str, Any],
    every: str | None,
) -> None:
    """Take in new images: embed what is new, report drift, build, gate, publish.

    Without a CORPUS only what came through the API is folded into a new snapshot.
    """
    from index.gates import Gates
    from index.quantities import parse_milliseconds
    from index.refresh import RefreshConfig
    from index.rounds import ended_by_sigterm, run_rounds
    from vicinal.config import from_mapping
    from vicinal.store import Store

    may_retrain = allow_retrain or action == "retrain"
    if may_retrain != (minutes is not None) or (settings and not may_retrain):
        raise click.UsageError("retraining takes --minutes, with --action retrain or --allow-retrain")
    values = {"action": action, "allow_retrain": allow_retrain, "prune": prune, "publish": not no_publish}
    values["bridge"] = not no_bridge
    values["gates"] = asdict(Gates(**gates))
    config = from_mapping(RefreshConfig, values, where="command line")
    period_s = None if every is None else parse_milliseconds(every) / 1e3
    store = Store(workspace)
    retrain = _retrain(store, minutes, settings)
    once = partial(_once, store, corpora, config, retrain, as_json=as_json)
    # Ended between two rounds or in one: nothing that is served changes, and nothing is left behind.
    with ended_by_sigterm(_ENDED if period_s is None else 0):
        if period_s is None:
            once()
        else:
            run_rounds(once, period_s=period_s, failed=lambda why: tell(f"error: {why}"))


def _retrain(store: "Store", minutes: float | None, settings: tuple[str, ...]) -> "Retrain | None":
    from index.retrain import pretrain_verb

    return None if minutes is None else pretrain_verb(store, minutes=minutes, settings=settings)


def _once(
    store: "Store", corpora: tuple[str, ...], config: "RefreshConfig", retrain: "Retrain | None", *, as_json: bool
) -> None:
    from index import refresh as refresher
    from index.report import print_refresh, refresh_value

    report = refresher.refresh(store, corpora, config=config, retrain=retrain, progress=tell)
    show(refresh_value(report), as_json=as_json, table=partial(print_refresh, report))


@click.command()
@click.argument("encoder", default="latest")
@workspace_option
@json_option
@click.option(
    "--corpus", "corpora", multiple=True, help="Where to read images; by default the served snapshot's corpora."
)
@click.option("--pairs", "pair_count", type=click.IntRange(50), help="Items that both encoders embed [default: 2000].")
def bridge(*, encoder: str, workspace: Path, as_json: bool, corpora: tuple[str, ...], pair_count: int | None) -> None:
    """Let the vectors of ENCODER be answered by the served snapshot, and its own by snapshots of ENCODER.

    An orthogonal map is fitted on items that both encoders embed. A query vector that names its encoder's
    fingerprint is then answered through it, and the reply says so (plan.bridged).
    """
    from index.bridge_pairs import PAIR_COUNT, build_bridge
    from index.report import bridge_value, print_bridge
    from vicinal.artifact import read_manifest
    from vicinal.embeddings import Embeddings
    from vicinal.store import Store

    store = Store(workspace)
    path = store.path("snapshots", store.active().snapshot)
    body = read_manifest(path, kind="snapshot", version=1, verify=False).body
    old = Embeddings.open(store.path("embeddings", str(body["embeddings"])))
    built = build_bridge(store, old, encoder, corpora=corpora, pair_count=pair_count or PAIR_COUNT)
    show(bridge_value(built), as_json=as_json, table=lambda: print_bridge(built))
