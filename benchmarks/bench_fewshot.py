"""Few-shot classification: accuracy, honesty, the unknown, and what to label next.

python -m benchmarks.bench_fewshot --data cifar10=PATH --data fashion-mnist=PATH --data clothing=PATH
python -m benchmarks.bench_fewshot --quick       raw pixels of Fashion-MNIST, 2 draws, proves the script

PATH is a workspace with embeddings of that data set, train and test, made by an encoder of the
trainer; labels come from the folders and were never seen in training. 50 seeded draws of 1, 2, 5,
10, 20 and 50 labels a class. Peers: a majority vote of the 5 nearest (the rule of TensorFlow
Similarity's match), a random forest (LightlyStudio's classifier) and scikit-learn's logistic
regression, all on the same centred embeddings. The last two take most of the time: they get the first 10
draws, and stand beside ours on those. Times are medians over the draws.
"""

import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from benchmarks.fewshot_data import Labelled, of_clusters, of_pixels, of_workspace
from benchmarks.frame import Frame
from serving.fewshot import metrics, model
from serving.fewshot.space import centered
from serving.labels import strategies
from vicinal.types import F32Array, I64Array

FIXED = ("prototype", "knn", "ridge", "logistic")
OURS = ("auto", "blend", *FIXED)
SHOTS = (1, 2, 5, 10, 20, 50)
LEVEL = 0.9
NEGATIVES = 20
LOGISTIC, FOREST = "logistic regression (scikit-learn)", "random forest"
SLOW_DRAWS = 10
PAGE = 100
"""Queries of one call, for speed: a page of thumbnails."""
Numbers = dict[str, list[float]]


def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--data", action="append", default=[], metavar="NAME=WORKSPACE", help="embeddings to use")
    parser.add_argument("--draws", type=int, default=50, help="draws at each number of labels")
    parser.add_argument("--queries", type=int, default=4000, help="test items at most")


def main() -> None:
    """Measures every data set."""
    frame = Frame.start("fewshot", __doc__, add=_arguments)
    draws, shots, seeds = (2, (1, 5), 2) if frame.quick else (frame.arguments.draws, SHOTS, 10)
    worst = [_measure(frame, data, draws=draws, shots=shots) for data in _data_sets(frame)]
    gaps = np.concatenate(worst)
    frame.add("auto less the best fixed classifier, mean", float(gaps.mean()), unit="points", goal=">= -1")
    frame.add("auto less the best fixed classifier, worst", float(gaps.min()), unit="points", goal=">= -2")
    for data in _data_sets(frame):
        _measure_suggestions(frame, data, seeds=seeds)
    _measure_large_support(frame)
    frame.finish()


def _data_sets(frame: Frame) -> list[Labelled]:
    limit = 500 if frame.quick else frame.arguments.queries
    pairs = [text.partition("=") for text in frame.arguments.data]
    found = [of_workspace(name, Path(place), limit=limit) for name, _, place in pairs]
    if found:
        return found
    pixels = of_pixels(count=5000, limit=limit)
    return [of_clusters(count=5000, limit=limit) if pixels is None else pixels]


def _draw(y_N: I64Array, shots: int, rng: np.random.Generator) -> I64Array:
    return np.concatenate([rng.permutation(np.flatnonzero(y_N == label))[:shots] for label in np.unique(y_N)])


def _measure(frame: Frame, data: Labelled, *, draws: int, shots: tuple[int, ...]) -> "np.ndarray[Any, Any]":
    center_D = data.train_ND.mean(axis=0)
    gaps = []
    for count in shots:
        found: dict[str, Numbers] = {}
        for draw in range(draws):
            rows = _draw(data.y_N, count, np.random.default_rng([frame.seed, count, draw]))
            for name in OURS:
                _append(found, name, _ours(name, data, rows, center_D))
            for name, peer in _peers(frame.seed).items():
                if draw < SLOW_DRAWS or name not in (LOGISTIC, FOREST):
                    _append(found, name, _peer(peer, data, rows, center_D))
        mean = _summary(found, draws)
        gaps.append(100 * (mean["auto"]["accuracy"] - max(mean[name]["accuracy"] for name in FIXED)))
        _report(frame, f"{data.name}, {count} a class", mean, _summary(found, SLOW_DRAWS), count)
        if count == 5:
            _measure_unknown(frame, data, center_D, draws=draws)
    return np.array(gaps)


def _append(found: dict[str, Numbers], name: str, numbers: dict[str, float]) -> None:
    for key, value in numbers.items():
        found.setdefault(name, {}).setdefault(key, []).append(value)


def _summary(found: dict[str, Numbers], draws: int) -> dict[str, dict[str, float]]:
    """Returns what each classifier reached on the first draws."""
    return {
        name: {key: float((np.median if "seconds" in key else np.mean)(values[:draws])) for key, values in one.items()}
        for name, one in found.items()
    }


def _report(
    frame: Frame, where: str, mean: dict[str, dict[str, float]], paired: dict[str, dict[str, float]], count: int
) -> None:
    auto = mean["auto"]
    for name in (*OURS, "majority of 5"):
        frame.add(f"{where}: {name}", 100 * mean[name]["accuracy"], unit="%", note="balanced accuracy")
    for name in (LOGISTIC, FOREST):
        frame.add(
            f"{where}: auto beside {name}", 100 * paired["auto"]["accuracy"], unit="%",
            peer=name, peer_value=100 * paired[name]["accuracy"], note=f"balanced accuracy, {SLOW_DRAWS} draws",
        )  # fmt: skip
    frame.add(f"{where}: ECE of auto", auto["ece"], unit="fraction", goal="<= 0.06" if count >= 5 else "",
              peer=FOREST, peer_value=paired[FOREST]["ece"],
              note=f"{auto['least_ece']:.3f} if the same probabilities were exact, of so few test items")  # fmt: skip
    frame.add(f"{where}: coverage of sets of level {LEVEL}", auto["coverage"], unit="fraction",
              goal="0.87 to 0.93" if count >= 2 else "", note=f"{auto['size']:.2f} labels a set")  # fmt: skip
    peer = paired[LOGISTIC]
    for name in ("auto", "ridge"):
        for what, key, goal in (
            (f"fit and answer {PAGE} queries", "page_seconds", "<= 0.1 of peer"),
            ("fit and answer all test items", "seconds", ""),
        ):
            frame.add(f"{where}: {what}, {name}", 1000 * paired[name][key], unit="ms", goal=goal,
                      peer=LOGISTIC, peer_value=1000 * peer[key])  # fmt: skip


def _balanced(said_Q: I64Array, true_Q: I64Array, class_count: int) -> float:
    return metrics.accuracies(metrics.confusion(said_Q, true_Q, class_count=class_count))["balanced_accuracy"]


def _ours(name: str, data: Labelled, rows: I64Array, center_D: F32Array) -> dict[str, float]:
    labels = [data.classes[y] for y in data.y_N[rows]]
    started = time.perf_counter()
    fitted = model.fit(model.make_support(data.train_ND[rows], labels), classifier=name, center_D=center_D)
    fit_seconds = time.perf_counter() - started
    page_seconds, _ = _timed(lambda: fitted.predict(data.test_QD[:PAGE], level=LEVEL))
    seconds, said = _timed(lambda: fitted.predict(data.test_QD, level=LEVEL))
    order = np.array([fitted.support.classes.index(label) for label in data.classes])
    true_Q = order[data.y_Q]
    return {
        "accuracy": _balanced(said.p_QC.argmax(axis=1), true_Q, len(data.classes)),
        "ece": metrics.expected_calibration_error(metrics.reliability(said.p_QC, true_Q)),
        "least_ece": _least_ece(said.p_QC),
        "coverage": float(said.member_QC[np.arange(true_Q.size), true_Q].mean()),
        "size": float(said.member_QC.sum(axis=1).mean()),
        "page_seconds": fit_seconds + page_seconds,
        "seconds": fit_seconds + seconds,
    }


def _least_ece(p_QC: F32Array) -> float:
    """Returns the ECE of these probabilities where labels are drawn from them: what chance alone makes of it."""
    uniform_Q1 = np.random.default_rng(0).random((len(p_QC), 1))
    drawn_Q = np.minimum((p_QC.cumsum(axis=1) < uniform_Q1).sum(axis=1), p_QC.shape[1] - 1)
    return metrics.expected_calibration_error(metrics.reliability(p_QC, drawn_Q))


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


Answer = Callable[[F32Array], F32Array]
Peer = Callable[[F32Array, I64Array], Answer]


def _peers(seed: int) -> dict[str, Peer]:
    def logistic(x: F32Array, y: I64Array) -> Answer:
        found = LogisticRegression(C=10, max_iter=1000).fit(x, y)
        return lambda q: np.asarray(found.predict_proba(q), dtype=np.float32)

    def forest(x: F32Array, y: I64Array) -> Answer:
        found = RandomForestClassifier(random_state=seed, n_jobs=-1).fit(x, y)
        return lambda q: np.asarray(found.predict_proba(q), dtype=np.float32)

    def majority(x: F32Array, y: I64Array) -> Answer:
        def answer(q: F32Array) -> F32Array:
            near_QK = np.argsort(-(q @ x.T), axis=1, kind="stable")[:, :5]
            votes_QC = np.stack([(y[near_QK] == label).sum(axis=1) for label in range(int(y.max()) + 1)], axis=1)
            votes_QC = votes_QC.astype(np.float32)
            votes_QC[np.arange(len(q)), y[near_QK[:, 0]]] += 0.5  # the nearest decides a tie
            return np.asarray(votes_QC / votes_QC.sum(axis=1, keepdims=True), dtype=np.float32)

        return answer

    return {LOGISTIC: logistic, FOREST: forest, "majority of 5": majority}


def _peer(peer: Peer, data: Labelled, rows: I64Array, center_D: F32Array) -> dict[str, float]:
    fit_seconds, answer = _timed(lambda: peer(centered(data.train_ND[rows], center_D), data.y_N[rows]))
    page_seconds, _ = _timed(lambda: answer(centered(data.test_QD[:PAGE], center_D)))
    seconds, p_QC = _timed(lambda: answer(centered(data.test_QD, center_D)))
    return {
        "accuracy": _balanced(p_QC.argmax(axis=1), data.y_Q, len(data.classes)),
        "ece": metrics.expected_calibration_error(metrics.reliability(p_QC, data.y_Q)),
        "page_seconds": fit_seconds + page_seconds,
        "seconds": fit_seconds + seconds,
    }


def _measure_unknown(frame: Frame, data: Labelled, center_D: F32Array, *, draws: int) -> None:
    """Hides 4 of 10 classes; 20 negatives of the hidden classes, 5 labels of each of the others."""
    found: Numbers = {"negatives": [], "alone": [], "nearest": []}
    for draw in range(draws):
        rng = np.random.default_rng([frame.seed, 99, draw])
        known = rng.permutation(len(data.classes))[: max(2, len(data.classes) * 6 // 10)]
        rows = _draw(data.y_N, 5, rng)
        rows = rows[np.isin(data.y_N[rows], known)]
        strangers = rng.permutation(np.flatnonzero(~np.isin(data.y_N, known)))[:NEGATIVES]
        labels = [data.classes[y] for y in data.y_N[rows]]
        is_known = np.isin(data.y_Q, known)
        for name, more in (("negatives", strangers), ("alone", strangers[:0])):
            support = model.make_support(
                np.concatenate([data.train_ND[rows], data.train_ND[more]]), [*labels, *[None] * more.size]
            )
            score_Q = model.fit(support, center_D=center_D).predict(data.test_QD).unknown_Q
            found[name].append(metrics.auroc(score_Q[is_known], score_Q[~is_known]))
        near_Q = -(centered(data.test_QD, center_D) @ centered(data.train_ND[rows], center_D).T).max(axis=1)
        found["nearest"].append(metrics.auroc(near_Q[is_known], near_Q[~is_known]))
    for name, goal in (("negatives", ">= 0.80"), ("alone", "")):
        what = f"with {NEGATIVES} negatives" if name == "negatives" else "without negatives"
        frame.add(
            f"{data.name}, 5 a class: AUROC of unknown, {what}", float(np.mean(found[name])), unit="fraction",
            peer="score of the nearest neighbor", peer_value=float(np.mean(found["nearest"])), goal=goal,
        )  # fmt: skip


def _measure_suggestions(frame: Frame, data: Labelled, *, seeds: int) -> None:
    """Labels 20 items, chosen typical-first or at random, and classifies by them."""
    found: Numbers = {"typical": [], "random": []}
    center_D = data.train_ND.mean(axis=0)
    for seed in range(seeds):
        pool = np.random.default_rng([frame.seed, seed]).permutation(len(data.y_N))[: 1000 if frame.quick else 20_000]
        x_ND = centered(data.train_ND[pool], center_D)
        chosen = {
            "typical": strategies.typical(x_ND, x_ND[:0], count=20, seed=seed),
            "random": strategies.random(x_ND, count=20, seed=seed),
        }
        for name, places in chosen.items():
            found[name].append(_ours_on(data, pool[places], center_D))
    frame.add(
        f"{data.name}: 20 labels on suggested items", 100 * float(np.mean(found["typical"])), unit="%",
        peer="on random items", peer_value=100 * float(np.mean(found["random"])), goal=">= 5 points above peer",
        note="balanced accuracy",
    )  # fmt: skip


def _ours_on(data: Labelled, rows: I64Array, center_D: F32Array) -> float:
    labels = [data.classes[y] for y in data.y_N[rows]]
    fitted = model.fit(model.make_support(data.train_ND[rows], labels), center_D=center_D)
    number = {label: place for place, label in enumerate(data.classes)}
    said_Q = np.array([number[label] for label in fitted.support.classes])[
        fitted.predict(data.test_QD).p_QC.argmax(axis=1)
    ]
    return _balanced(said_Q, data.y_Q, len(data.classes))


def _measure_large_support(frame: Frame) -> None:
    """10,000 supports of 200 classes: fitted once, then one query at a time."""
    count, classes = (500, 20) if frame.quick else (10_000, 200)
    rng = np.random.default_rng(frame.seed)
    y_N = np.arange(count) % classes
    x_ND = (rng.standard_normal((classes, 192))[y_N] + rng.standard_normal((count, 192))).astype(np.float32)
    started = time.perf_counter()
    fitted = model.fit(model.make_support(x_ND, [f"class {y}" for y in y_N]))
    frame.add(f"fit auto to {count:,} supports of {classes} classes", time.perf_counter() - started, unit="s")
    seconds = []
    for row in range(50):
        started = time.perf_counter()
        fitted.predict(x_ND[row : row + 1])
        seconds.append(time.perf_counter() - started)
    frame.add("classify one query by them", 1000 * float(np.median(seconds)), unit="ms")


if __name__ == "__main__":
    main()
