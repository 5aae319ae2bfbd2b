"""A refresh of 1% new items beside a full rebuild: what it takes to take in a few new images.

python -m benchmarks.bench_refresh            60,000 images of Fashion-MNIST, 600 of the test images as new ones
python -m benchmarks.bench_refresh --quick    1,500 + 100, proves the script

The encoder is a small random one: what is measured is the way of the data, not the encoder. The goal allows 5% of the
time of a full rebuild (embedding all and building) besides the embedding of the new images.
"""

import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path

from benchmarks.frame import Frame
from benchmarks.index_data import FASHION
from index.build import BuildConfig, build
from index.embed import embed
from index.publish import publish
from index.refresh import refresh
from vicinal.encoder import save
from vicinal.modalities.image import Preprocessing
from vicinal.modalities.image.backbones import create
from vicinal.store import Store
from vicinal.types import Metric

ENCODER = "resnet18-w24"
SIDE = 28


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, default=FASHION, help="folder with the IDX files of Fashion-MNIST")
    parser.add_argument("--kind", default="hnsw", help="kind of index")


def _add_encoder(store: Store) -> None:
    with store.stage("encoders") as staging:
        save(
            staging.path,
            model=create(ENCODER, channels=1, image_size=SIDE),
            architecture={"name": ENCODER, "channels": 1, "image_size": SIDE},
            preprocessing=Preprocessing(channels=1, height=SIDE, width=SIDE),
            metric=Metric.COSINE,
            metadata={},
        )
        staging.commit()


def main() -> None:
    """Builds, takes in new images, and builds all anew."""
    frame = Frame.start("refresh", __doc__, add=_arguments)
    old_count, new_count = (1500, 100) if frame.quick else (60_000, 600)
    old = f"old=idx:{frame.arguments.folder}?split=train&limit={old_count}"
    new = f"new=idx:{frame.arguments.folder}?split=test&limit={new_count}"
    config = BuildConfig(kind=frame.arguments.kind, seed=frame.seed)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "workspace")
        _add_encoder(store)
        embed(store, [old])
        build(store, config=config)
        publish(store)
        report = refresh(store, [new])
        assert report.built is not None
        assert report.embedded is not None
        start = time.perf_counter()
        whole = embed(store, [old, new])
        build(store, embeddings=whole.version or "latest", config=config)
        rebuild_s = time.perf_counter() - start
    besides_s = report.seconds - report.embedded.seconds
    frame.config["report"] = {"action": report.action, "reason": report.reason, "build_s": report.built.build_s}
    frame.add("refresh", report.seconds, unit="s", note=f"{new_count} new beside {old_count}, {report.action}")
    frame.add("embedding of the new", report.embedded.seconds, unit="s")
    frame.add(
        "refresh without embedding", besides_s, unit="s", peer="full rebuild", peer_value=rebuild_s, goal="<= 0.05 x"
    )
    frame.add("recall@10 after the refresh", report.built.recall, unit="fraction")
    frame.finish()


if __name__ == "__main__":
    main()
