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
@click.option("--image-size", type=int, help="Side of the images in pixels [default: as they are, within reason].")
@click.option("--dimension", type=int, help="Of the embeddings, at most; 0: as the network gives them [default: 768].")
@click.option("--devices", type=int, help="Processes that share a batch [default: one for each GPU].")
@click.option("--nodes", type=int, help="Machines that share a batch; the command is started on each.")
@click.option(
    "--compile/--no-compile", "compiled", default=None, help="Compile the backbone [default: on GPUs, for long runs]."
)
@click.option("--seed", type=int, help="Of initialisation, sampling and views.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any other setting; may be repeated.")
@click.option("--recipe", help="Settings of a published run; see: vicinal recipes.")
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="A TOML file of settings.")
@click.option("--resume", metavar="RUN", help="Continue a run by its name, or 'latest'.")
@_JSON
def pretrain(
    images: str | None,
    workspace: Path,
    overrides: tuple[str, ...],
    recipe: str | None,
    config_path: Path | None,
    resume: str | None,
    *,
    as_json: bool,
    **flags: Any,
) -> None:
    """Train an encoder on the unlabelled images of IMAGES, a folder, archive or corpus spec."""
    from trainer import pretrain as stage
    from trainer.allocator import keep_memory
    from trainer.config import PretrainConfig
    from trainer.launch import is_leader
    from trainer.progress import listening
    from vicinal.config import from_mapping
    from vicinal.store import Store

    if (images is None) == (resume is None):
        raise click.UsageError("name the images to train on, or --resume a run")
    keep_memory()
    if not is_leader():
        stage.follow(workspace, resumed=resume is not None)
        return
    if resume is not None:
        with listening() as listener:
            places = {"devices": flags["devices"], "nodes": flags["nodes"]}
            result = stage.resume(Store(workspace), resume, **places, listener=listener)
    else:
        assert images is not None
        settings = _settings(flags, recipe=recipe, config_path=config_path, overrides=overrides)
        config = from_mapping(PretrainConfig, settings, where="--set")
        with listening() as listener:
            result = stage.pretrain(Store.create(workspace), images, config, listener=listener)
    _show_result(result, as_json=as_json)


def _settings(
    flags: dict[str, Any], *, recipe: str | None, config_path: Path | None, overrides: tuple[str, ...]
) -> dict[str, Any]:
    """Lays flags over the file over the recipe; ``--set`` lies on top."""
    from trainer.recipe import load
    from vicinal.config import read_toml, with_overrides

    settings = load(recipe).config if recipe else {}
    settings = settings | (read_toml(config_path) if config_path else {})
    compiled = flags.pop("compiled")
    flags["compile"] = None if compiled is None else "on" if compiled else "off"
    given = {key: value for key, value in flags.items() if value is not None}
    budget = {key: given.pop(key) for key in ("minutes", "epochs", "steps") if key in given}
    settings |= given
    settings["budget"] = budget or settings.get("budget", {"minutes": 10.0})
    return with_overrides(settings, overrides)


@click.command()
@click.argument("name", required=False)
@_JSON
def recipes(name: str | None, *, as_json: bool) -> None:
    """List published runs and what came of them, or show the settings of one, by its NAME."""
    from trainer import recipe as recipe_files
    from vicinal.config import to_mapping

    known = {one: recipe_files.load(one) for one in ([name] if name else recipe_files.names())}
    if as_json:
        click.echo(json.dumps({one: to_mapping(found) for one, found in known.items()}))
        return
    for one, found in known.items():
        click.echo(click.style(one, bold=True))
        for line in found.lines():
            click.echo(f"  {line}")
        if name:
            click.echo(json.dumps(found.config, indent=1))


def _show_result(result: Any, *, as_json: bool) -> None:
    from trainer import pretrain as stage

    values = {
        "encoder": result.encoder,
        "run": result.run,
        "seconds": result.seconds,
        "images": result.images,
        "quarantined": result.quarantined,
        "advice": result.advice,
        **result.state,
    }
    if as_json:
        click.echo(json.dumps(values))
        return
    click.echo(f"encoder {result.encoder} from run {result.run}: {result.images} images in {result.seconds:.0f} s")
    if values["online"]:
        last = values["readout"] or values["online"][-1]
        for name, row in {"encoder": last, **values["baselines"]}.items():
            label = stage.ROWS.get(name, "this encoder")
            click.echo(f"{label:26} kNN {100 * row['knn']:5.1f}%  linear probe {100 * row['linear']:5.1f}%")
    if result.advice:
        click.echo(click.style("note: ", fg="yellow") + result.advice)
    click.echo(f"next: vicinal embed IMAGES --workspace ... --encoder {result.encoder}")


@click.command()
@_WORKSPACE
@click.option("--run", help="Name of the run whose last checkpoint becomes an encoder [default: latest].")
@click.option("--weights", help="Weights to take as they are, without training; see: vicinal pretrain --help.")
@click.option("--backbone", default="auto", help="Network that the weights are of; a file needs its name.")
@click.option("--image-size", type=click.IntRange(8, 1024), help="Side of the images in pixels; with --weights.")
@click.option("--encoder", help="Version of an encoder; with --onnx.")
@click.option("--onnx", type=click.Path(path_type=Path), help="Write an encoder as one ONNX file, checked for parity.")
@_JSON
def export(
    workspace: Path,
    run: str | None,
    weights: str | None,
    backbone: str,
    image_size: int | None,
    encoder: str | None,
    onnx: Path | None,
    *,
    as_json: bool,
) -> None:
    """Write a run's last checkpoint, or published weights, as an encoder; or an encoder as an ONNX file."""
    from trainer import export as stage
    from vicinal.store import Store

    if sum(value is not None for value in (run, weights, encoder)) > 1 or (encoder is not None and onnx is None):
        raise click.UsageError("give one of --run, --weights, and --encoder with --onnx")
    store = Store.create(workspace) if weights else Store(workspace)
    if weights is not None:
        encoder = stage.adopt(store, weights, encoder=backbone, image_size=image_size)
    elif onnx is None or run is not None:
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
@click.option("--shots", multiple=True, help="Labels a class [default: 1,5,10,50].")
@click.option("--draws", type=click.IntRange(1, 1000), help="Draws of labelled images [default: 20].")
@click.option("--scratch-draws", type=click.IntRange(0, 100), help="Of them, also trained from scratch [default: 3].")
@click.option("--seed", type=int, default=0, show_default=True, help="Of every draw.")
@click.option("--limit", nargs=2, type=int, metavar="TRAIN TEST", help="Most images of each split.")
@click.option("--plot", type=click.Path(path_type=Path), help="Picture to write [default: WORKSPACE/reports/...png].")
@_JSON
def evaluate_encoder(
    workspace: Path,
    encoder: str,
    train: str,
    test: str,
    shots: tuple[str, ...],
    limit: tuple[int, int] | None,
    plot: Path | None,
    *,
    as_json: bool,
    **given: Any,
) -> None:
    """Measure an encoder by kNN, linear probe and few labels, against pixels, random and scratch.

    Prints a table; writes it as JSON and as a picture to the reports of the workspace.
    """
    from trainer import evaluate as stage
    from trainer.progress import listening
    from trainer.report import table, write
    from vicinal.config import from_mapping
    from vicinal.encoder import Encoder
    from vicinal.store import Store

    if given["scratch_draws"] is None and given["draws"] is not None:
        given["scratch_draws"] = min(given["draws"], 3)
    given |= {"shots": stage.shots_of(shots) or None}
    given |= dict(zip(("train_limit", "test_limit"), limit or (), strict=False))
    values = {key: value for key, value in given.items() if value is not None}
    config = from_mapping(stage.EvaluationConfig, values, where="evaluate-encoder")
    store = Store(workspace)
    path = store.path("encoders", encoder)
    loaded = Encoder.load(path)
    with listening() as listener:
        place = store.root / "work" / "images"
        splits = stage.read_splits(train, test, loaded.preprocessing, config, place=place, progress=listener.reading)
        result = stage.evaluate(loaded, *splits, config, said=listener.said)
    report = plot or store.root / "reports" / f"encoder-{path.name}.png"
    write(result, report, title=f"encoder {path.name}: {loaded.architecture['name']}")
    if as_json:
        click.echo(json.dumps(result | {"plot": str(report)}))
        return
    for line in table(result):
        click.echo(line)
    click.echo(f"written: {report} and {report.with_suffix('.json').name}")
