"""The verbs of the trainer: pretrain, export, evaluate-encoder."""

import json
from pathlib import Path
from typing import Any

import click

_WORKSPACE = click.option(
    "--workspace",
    "-w",
    type=click.Path(path_type=Path),
    envvar="VICINAL_WORKSPACE",
    default=Path("workspace"),
    show_default=True,
    help="Directory of the workspace.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")


@click.command()
@click.argument("images", required=False)
@_WORKSPACE
@click.option("--minutes", type=float, help="Budget in minutes of training.")
@click.option("--epochs", type=float, help="Budget in passes over the images.")
@click.option("--steps", type=int, help="Budget in optimiser steps.")
@click.option("--method", help="Self-supervised method.")
@click.option("--encoder", help="Backbone by name, or auto.")
@click.option(
    "--weights", help="What to start from: an encoder (latest, 000001), a .safetensors file, or a torchvision enum."
)
@click.option("--seed", type=int, help="Of initialisation, sampling and views.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any other setting; may be repeated.")
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="A TOML file of settings.")
@click.option("--resume", metavar="RUN", help="Continue a run by its name, or 'latest'.")
@_JSON
def pretrain(
    images: str | None,
    workspace: Path,
    minutes: float | None,
    epochs: float | None,
    steps: int | None,
    method: str | None,
    encoder: str | None,
    weights: str | None,
    seed: int | None,
    overrides: tuple[str, ...],
    config_path: Path | None,
    resume: str | None,
    *,
    as_json: bool,
) -> None:
    """Train an encoder on the unlabelled images of IMAGES, a folder, archive or corpus spec."""
    from trainer import pretrain as stage
    from trainer.allocator import keep_memory
    from trainer.config import PretrainConfig
    from trainer.progress import listening
    from vicinal.config import from_mapping, read_toml, with_overrides
    from vicinal.store import Store

    if (images is None) == (resume is None):
        raise click.UsageError("name the images to train on, or --resume a run")
    keep_memory()
    if resume is not None:
        with listening() as listener:
            result = stage.resume(Store(workspace), resume, listener=listener)
    else:
        assert images is not None
        settings = read_toml(config_path) if config_path else {}
        flags = {"method": method, "encoder": encoder, "weights": weights, "seed": seed}
        settings |= {key: value for key, value in flags.items() if value is not None}
        budget = {"minutes": minutes, "epochs": epochs, "steps": steps}
        given = {key: value for key, value in budget.items() if value is not None}
        settings["budget"] = given or settings.get("budget", {"minutes": 10.0})
        config = from_mapping(PretrainConfig, with_overrides(settings, overrides), where="--set")
        with listening() as listener:
            result = stage.pretrain(Store.create(workspace), images, config, listener=listener)
    _show_result(result, as_json=as_json)


def _show_result(result: Any, *, as_json: bool) -> None:
    from trainer import pretrain as stage

    values = {
        "encoder": result.encoder,
        "run": result.run,
        "seconds": result.seconds,
        "images": result.images,
        "quarantined": result.quarantined,
        **result.state,
    }
    if as_json:
        click.echo(json.dumps(values))
        return
    click.echo(f"encoder {result.encoder} from run {result.run}: {result.images} images in {result.seconds:.0f} s")
    if values["knn"]:
        base = ", ".join(f"{stage.ROWS[name]} {100 * value:.1f}%" for name, value in values["baselines"].items())
        click.echo(f"kNN accuracy {100 * values['knn'][-1]['accuracy']:.1f}% ({base})")
    click.echo(f"next: vicinal embed IMAGES --workspace ... --encoder {result.encoder}")


@click.command()
@_WORKSPACE
@click.option("--run", help="Name of the run whose last checkpoint becomes an encoder [default: latest].")
@click.option("--encoder", help="Version of an encoder; with --onnx.")
@click.option("--onnx", type=click.Path(path_type=Path), help="Write an encoder as one ONNX file, checked for parity.")
@_JSON
def export(workspace: Path, run: str | None, encoder: str | None, onnx: Path | None, *, as_json: bool) -> None:
    """Write the last checkpoint of a run as an encoder, or an encoder as an ONNX file."""
    from trainer import export as stage
    from vicinal.store import Store

    store = Store(workspace)
    if encoder is not None and (onnx is None or run is not None):
        raise click.UsageError("--encoder goes with --onnx and without --run")
    if onnx is None or run is not None:
        encoder = stage.export(store, run or "latest")
    result: dict[str, Any] = {"encoder": encoder or "latest"}
    if onnx is not None:
        from trainer.onnx import export_onnx
        from vicinal.encoder import Encoder

        loaded = Encoder.load(store.path("encoders", result["encoder"]), device="cpu")
        result |= {"onnx": str(onnx), "difference": export_onnx(loaded, onnx)}
    written = f"; {onnx} written, largest difference {result['difference']:.1e}" if onnx is not None else ""
    click.echo(json.dumps(result) if as_json else f"encoder {result['encoder']}{written}")


@click.command("evaluate-encoder")
@_WORKSPACE
@click.option("--encoder", default="latest", show_default=True, help="Version of the encoder.")
@click.option("--train", required=True, help="Corpus of labelled images; classes are folder names.")
@click.option("--test", required=True, help="Corpus of queries.")
@click.option("--shots", multiple=True, help="Labels a class, such as 1,5,10,50.")
@click.option("--draws", type=click.IntRange(1, 1000), help="Draws of labelled images.")
@click.option("--scratch-draws", type=click.IntRange(0, 100), help="Of them, also trained from scratch.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of every draw.")
@click.option("--limit", nargs=2, type=int, metavar="TRAIN TEST", help="Most images of each split.")
@_JSON
def evaluate_encoder(
    workspace: Path,
    encoder: str,
    train: str,
    test: str,
    shots: tuple[str, ...],
    draws: int | None,
    scratch_draws: int | None,
    seed: int,
    limit: tuple[int, int] | None,
    *,
    as_json: bool,
) -> None:
    """Measure an encoder by kNN, linear probe and few labels, against pixels, random and scratch."""
    from trainer import evaluate as stage
    from trainer.progress import listening
    from vicinal.config import from_mapping
    from vicinal.encoder import Encoder
    from vicinal.store import Store

    given: dict[str, Any] = {"seed": seed, "shots": stage.shots_of(shots) or None, "draws": draws}
    given |= {"scratch_draws": scratch_draws if scratch_draws is not None or draws is None else min(draws, 3)}
    if limit is not None:
        given |= {"train_limit": limit[0], "test_limit": limit[1]}
    values = {key: value for key, value in given.items() if value is not None}
    config = from_mapping(stage.EvaluationConfig, values, where="evaluate-encoder")
    store = Store(workspace)
    loaded = Encoder.load(store.path("encoders", encoder))
    with listening() as listener:
        place = store.root / "work" / "images"
        splits = stage.read_splits(train, test, loaded.preprocessing, config, place=place, progress=listener.reading)
        result = stage.evaluate(loaded, *splits, config, said=listener.said)
    if as_json:
        click.echo(json.dumps(result))
        return
    for name, accuracy in result["knn"].items():
        click.echo(f"kNN {name:8} {100 * accuracy:5.1f}%")
    click.echo(f"linear probe {100 * result['linear']['encoder']:5.1f}%")
    for count, row in result["shots"].items():
        cells = "  ".join(f"{name} {100 * row[name]:.1f}%" for name in row["std"])
        click.echo(f"{count} labels a class: {cells}")
