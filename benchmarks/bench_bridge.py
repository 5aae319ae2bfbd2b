"""What a bridge between two encoders is worth: same-class share of the 10 nearest, in, out of, and across both spaces.

python -m benchmarks.bench_bridge --old A/encoders/000001 --new B/encoders/000001    Fashion-MNIST
python -m benchmarks.bench_bridge --quick                                             two random projections of pixels

The map is fitted on train images that are not searched; queries are test images.
"""

from argparse import ArgumentParser
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.frame import Frame
from benchmarks.index_data import FASHION
from index.bridge import Space, fit_bridge
from index.exact import exact_search
from vicinal.corpus import open_corpus
from vicinal.encoder import Encoder
from vicinal.modalities.image import Preprocessing
from vicinal.types import F32Array, I64Array, JsonObject, Metric, U8Array

K = 10


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, default=FASHION, help="folder with the IDX files of Fashion-MNIST")
    parser.add_argument("--old", type=Path, help="directory of an encoder of gray 28 x 28 images")
    parser.add_argument("--new", type=Path, help="directory of another one")
    parser.add_argument("--items", type=int, default=20_000, help="train images that are searched")
    parser.add_argument("--queries", type=int, default=5_000, help="test images that are asked for")
    parser.add_argument("--pairs", type=int, default=2_000, help="further train images that the map is fitted on")


def _images(folder: Path, split: str, count: int) -> tuple[U8Array, I64Array]:
    plain = Preprocessing(channels=1, height=28, width=28)
    with open_corpus(f"{folder}?split={split}&limit={count}") as corpus:
        items = list(islice(corpus, count))
        images = [plain.to_image(corpus.read(item)) for item in items]
    return np.stack(images), np.array([int(item.label or -1) for item in items])


class _Projection:
    """Pixels, projected: an encoder for the quick form."""

    metric = Metric.COSINE

    def __init__(self, seed: int) -> None:
        self._map = np.random.default_rng(seed).standard_normal((784, 64)).astype(np.float32)

    def embed(self, x_BCHW: U8Array) -> F32Array:
        y_BD = (x_BCHW.reshape(len(x_BCHW), -1) / 255.0 - 0.3).astype(np.float32) @ self._map
        return np.ascontiguousarray(y_BD / np.linalg.norm(y_BD, axis=1, keepdims=True))


def _describe(encoder: _Projection | Encoder) -> JsonObject:
    if isinstance(encoder, _Projection):
        return {"architecture": "random projection of pixels"}
    trained = encoder.manifest.body["metadata"]
    known = {name: trained.get("config", {}).get(name) for name in ("method", "seed", "budget")}
    return {"architecture": encoder.architecture, "images": trained.get("image_count"), **known}


def _precision(x_QD: F32Array, y_ND: F32Array, labels_Q: I64Array, labels_N: I64Array, metric: Metric) -> float:
    rows_QK, _ = exact_search(np.ascontiguousarray(x_QD), y_ND, metric=metric, neighbor_count=K)
    return round(float((labels_N[rows_QK] == labels_Q[:, None]).mean()), 4)


def main() -> None:
    frame = Frame.start("bridge", __doc__, add=_arguments)
    given = frame.arguments
    items, queries, pairs = (600, 200, 300) if given.quick else (given.items, given.queries, given.pairs)
    encoders: list[_Projection | Encoder] = [_Projection(1), _Projection(2)]
    if not given.quick:
        encoders = [Encoder.load(given.old), Encoder.load(given.new)]
    train_NCHW, train_N = _images(given.folder, "train", items + pairs)
    test_QCHW, labels_Q = _images(given.folder, "test", queries)
    (old_ND, new_NE), (old_QD, new_QE) = (
        [encoder.embed(x_BCHW) for encoder in encoders] for x_BCHW in (train_NCHW, test_QCHW)
    )
    metric, labels_N = encoders[0].metric, train_N[:items]
    spaces = [
        Space(fingerprint=name, dimension=x_ND.shape[1], metric=encoder.metric)
        for name, x_ND, encoder in zip(("old", "new"), (old_ND, new_NE), encoders, strict=True)
    ]
    bridge, quality = fit_bridge(old_ND[items:], new_NE[items:], source=spaces[0], target=spaces[1], seed=given.seed)
    old_ND, new_NE = np.ascontiguousarray(old_ND[:items]), np.ascontiguousarray(new_NE[:items])
    rows = {
        "old in its own space": (old_QD, old_ND),
        "new in its own space": (new_QE, new_NE),
        "new against old, bridged": (bridge.apply(new_QE, fingerprint="new"), old_ND),
        "old against new, bridged": (bridge.apply(old_QD, fingerprint="old"), new_NE),
    }
    if old_QD.shape[1] == new_QE.shape[1]:
        rows["new against old, as it is"] = (new_QE, old_ND)
    for name, (x_QD, y_ND) in rows.items():
        frame.add(f"precision@10, {name}", _precision(x_QD, y_ND, labels_Q, labels_N, metric), unit="fraction")
    frame.add("own item among 10, held-out pairs", quality.own_item, unit="fraction")
    frame.add("neighbors shared with the own vector", quality.overlap, unit="fraction")
    frame.config["encoders"] = [_describe(encoder) for encoder in encoders]
    frame.finish()


if __name__ == "__main__":
    main()
