"""Calibrate and Evaluate: metrics are held to scikit-learn and brute force; a calibration keeps to its fingerprint."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    ndcg_score,
    roc_auc_score,
)

from serving.fewshot import metrics, thresholds
from serving.fewshot.evidence import metric_scores
from serving.fewshot.model import make_support
from serving.fewshot.thresholds import Target
from tests.serving.labelled_workspace import (
    CLASSES,
    add_snapshot,
    item_id,
    made_clusters,
    made_workspace,
    running_server,
)
from vicinal.client import CalibrationTarget, Client, Label, SupportExample
from vicinal.errors import (
    CorruptArtifactError,
    FingerprintMismatchError,
    InvalidArgumentError,
    InvalidLabelError,
    NotFoundError,
)
from vicinal.store import Store
from vicinal.types import Metric


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return made_workspace(tmp_path_factory.mktemp("evaluate") / "workspace")


@pytest.fixture(scope="module")
def client(store: Store) -> Iterator[Client]:
    with running_server(store) as address, Client(address) as client:
        client.create_label_set("train")
        client.put_labels("train", [Label(item_id=item_id(i), label=CLASSES[i % 4]) for i in range(80)])
        client.create_label_set("test")
        client.put_labels("test", [Label(item_id=item_id(i), label=CLASSES[i % 4]) for i in range(100, 300)])
        client.create_label_set("open")
        known = [Label(item_id=item_id(i), label=CLASSES[i % 4]) for i in range(80) if i % 4 < 2]
        none = [Label(item_id=item_id(i), negative=True) for i in range(80) if i % 4 >= 2]
        client.put_labels("open", [*known, *none])
        yield client


def test_accuracies_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    true_Q, said_Q = rng.integers(5, size=300), rng.integers(5, size=300)
    counts_CC = metrics.confusion(said_Q, true_Q, class_count=5)
    np.testing.assert_array_equal(counts_CC, confusion_matrix(true_Q, said_Q))
    found = metrics.accuracies(counts_CC)
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(true_Q, said_Q))
    assert found["macro_f1"] == pytest.approx(f1_score(true_Q, said_Q, average="macro"))


def test_auroc_agrees_with_scikit_learn_ties_included() -> None:
    rng = np.random.default_rng(1)
    low, high = rng.integers(6, size=50).astype(np.float32), rng.integers(2, 8, size=70).astype(np.float32)
    wanted = roc_auc_score([0] * 50 + [1] * 70, np.concatenate([low, high]))
    assert metrics.auroc(low, high) == pytest.approx(wanted)
    assert metrics.auroc(low, low[:0]) == 0.5


def test_retrieval_at_full_depth_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    match_QK = rng.random((20, 30)) < 0.3
    found = metrics.retrieval(match_QK, match_QK.sum(axis=1), depth=30)
    scores_QK = -np.tile(np.arange(30.0), (20, 1))
    average = np.mean([average_precision_score(row, scores) for row, scores in zip(match_QK, scores_QK, strict=True)])
    assert found["map@30"] == pytest.approx(average)
    assert found["ndcg@30"] == pytest.approx(ndcg_score(match_QK, scores_QK))
    assert found["precision@30"] == pytest.approx(match_QK.mean())
    assert found["recall@30"] == 1.0
    assert metrics.retrieval(match_QK[:0], np.zeros(0, np.int64), depth=5)["map@5"] == 0


def test_ece_of_known_bins() -> None:
    p_QC = np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10, np.float32)
    true_Q = np.array([0] * 9 + [1] + [0] * 5 + [1] * 5)
    bins = metrics.reliability(p_QC, true_Q, bin_count=10)
    assert metrics.expected_calibration_error(bins) == pytest.approx(0.05, abs=1e-6)
    assert sum(one.count for one in bins) == 20


@pytest.mark.parametrize("metric", list(Metric))
def test_metric_scores_are_larger_for_the_closer(metric: Metric) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((3, 5)).astype(np.float32), rng.standard_normal((4, 5)).astype(np.float32)
    found = metric_scores(x, y, metric)
    for q in range(3):
        for n in range(4):
            wanted = {
                Metric.COSINE: x[q] @ y[n] / np.linalg.norm(x[q]) / np.linalg.norm(y[n]),
                Metric.INNER_PRODUCT: x[q] @ y[n],
                Metric.L2: -((x[q] - y[n]) ** 2).sum(),
            }[metric]
            assert found[q, n] == pytest.approx(wanted, abs=1e-4)


def test_threshold_metrics_agree_with_counting() -> None:
    rng = np.random.default_rng(4)
    score, right = rng.integers(20, size=60).astype(np.float32), rng.random(60) < 0.7
    found = thresholds.curve(score, right)
    for place, limit in enumerate(found.score_T):
        within = score >= limit
        tp, fp = (within & right).sum(), (within & ~right).sum()
        fn, tn = (~within & right).sum(), (~within & ~right).sum()
        assert found.metrics["precision"][place] == pytest.approx(tp / (tp + fp))
        assert found.metrics["recall"][place] == pytest.approx(tp / (tp + fn))
        assert found.metrics["fpr"][place] == pytest.approx(fp / (fp + tn))
        assert found.metrics["binary_accuracy"][place] == pytest.approx((tp + tn) / 60)
        assert found.metrics["npv"][place] == pytest.approx(tn / (tn + fn) if tn + fn else 1)
        assert found.metrics["rejection_rate"][place] == pytest.approx((~within).mean())


def test_thresholds_reach_what_they_can() -> None:
    x_ND, y_N = made_clusters(120, noise=3.0)
    support = make_support(x_ND, [CLASSES[y] for y in y_N])
    targets = [
        Target(name="precise", metric="precision", value=0.9),
        Target(name="best", metric="f1", value=None),
        Target(name="calm", metric="fpr", value=0.1),
        Target(name="dream", metric="recall", value=1.0),
    ]
    found, curve = thresholds.fit(support, targets, metric=Metric.COSINE)
    whole = {one.target: one for one in found if not one.label}
    assert whole["precise"].reached
    assert whole["precise"].value >= 0.9
    assert whole["best"].value == pytest.approx(curve.metrics["f1"].max())
    assert whole["calm"].value <= 0.1
    assert whole["dream"].rejection_rate < 0.2
    assert {one.label for one in found} == {"", *CLASSES}
    assert len(thresholds.thinned(curve)) <= 200
    worse = make_support(x_ND, [CLASSES[y] for y in np.random.default_rng(0).permutation(y_N)])
    (missed, *_), _ = thresholds.fit(worse, [Target(name="p", metric="precision", value=1.0)], metric=Metric.COSINE)
    assert not missed.reached or missed.rejection_rate > 0.5


def test_evaluate_by_leave_one_out_and_on_a_held_out_set(client: Client) -> None:
    alone = client.evaluate("train", depth=5)
    assert alone.confusion.sum() == 80
    assert alone.labels == sorted(CLASSES)
    held_out = client.evaluate("train", held_out="test", classifier="ridge")
    assert held_out.confusion.sum() == 200
    assert held_out.classifier.name == "ridge"
    for found in (alone, held_out):
        assert found.metrics["balanced_accuracy"] > 0.9
        assert all(0 <= value <= 1 for value in found.metrics.values())
        assert sum(one.count for one in found.reliability) == found.confusion.sum()
        assert found.snapshot.name == "snapshots/000001"
    assert {"recall@5", "precision@5", "map@5", "ndcg@5", "ece", "expected_rejection_rate"} <= set(alone.metrics)
    assert "unknown_auroc" not in alone.metrics
    assert client.evaluate("open").metrics["unknown_auroc"] > 0.9


def test_evaluate_says_what_is_missing(client: Client) -> None:
    one_each = [SupportExample(query=item_id(i), label=CLASSES[i % 4]) for i in range(4)]
    with pytest.raises(InvalidLabelError, match="two examples of a class"):
        client.evaluate(one_each)
    with pytest.raises(InvalidLabelError, match="classes that the support does not have: shoe, tree"):
        client.evaluate(one_each[:2], held_out="test")
    with pytest.raises(InvalidArgumentError, match="depth"):
        client.evaluate("train", depth=1001)
    assert client.evaluate(one_each, held_out="test").metrics["accuracy"] > 0.7


def test_a_calibration_decides_what_is_unknown(client: Client) -> None:
    found = client.calibrate("open-p99", "open")
    assert found.name == "calibrations/open-p99"
    assert found.default_target == "best-f1"
    assert {one.target for one in found.thresholds} == {"best-f1", "precise"}
    assert len(found.curve["score"]) == len(found.curve["precision"]) > 10
    ids = [item_id(i) for i in range(200, 300)]
    said = client.classify(ids, support="open", calibration="calibrations/open-p99").results
    for one in said:
        assert one.unknown == (one.unknown_score > one.unknown_threshold)  # type: ignore[union-attr]
    unknown = np.array([one.unknown for one in said])  # type: ignore[union-attr]
    strange = np.array([i % 4 >= 2 for i in range(200, 300)])
    assert unknown[strange].mean() > 0.8
    assert unknown[~strange].mean() < 0.3
    measured = client.evaluate("open", calibration="open-p99").metrics
    assert measured["unknown_recall"] > 0.8
    assert client.evaluate("open", held_out="open", calibration="open-p99").metrics["expected_rejection_rate"] == 0
    strict = client.calibrate(
        "strict", "open", targets=[CalibrationTarget(name="all", metric="precision", value=1.0)], default_target="all"
    )
    assert strict.thresholds[0].reached


def test_bad_calibrations_have_one_clear_answer(client: Client, store: Store) -> None:
    with pytest.raises(InvalidArgumentError, match="did you mean 'precision'"):
        client.calibrate("x", "open", targets=[CalibrationTarget(name="a", metric="prec1sion")])
    with pytest.raises(InvalidArgumentError, match="wanted 0 to 1"):
        client.calibrate("x", "open", targets=[CalibrationTarget(name="a", metric="f1", value=1.5)])
    with pytest.raises(InvalidArgumentError, match="unknown target"):
        client.calibrate("x", "open", default_target="other")
    with pytest.raises(InvalidArgumentError, match="calibration name"):
        client.calibrate("../x", "open")
    with pytest.raises(InvalidLabelError, match="two classes"):
        client.calibrate("x", [SupportExample(query=item_id(i), label="only") for i in range(3)])
    with pytest.raises(InvalidLabelError, match="two classes"):
        client.calibrate("x", [SupportExample(query=item_id(0), label="only")])
    with pytest.raises(NotFoundError, match="no calibrations/none"):
        client.classify([item_id(0)], support="open", calibration="none")
    client.calibrate("broken", "open")
    path = store.root / "labels" / "calibrations" / "broken.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(CorruptArtifactError, match="damaged"):
        client.classify([item_id(0)], support="open", calibration="broken")


def test_a_calibration_of_another_fingerprint_is_refused(client: Client, store: Store) -> None:
    client.calibrate("mine", "open")
    path = store.root / "labels" / "calibrations" / "mine.json"
    body = json.loads(path.read_text())
    path.write_text(json.dumps({**body, "fingerprint": "0" * 64}))
    with pytest.raises(FingerprintMismatchError, match="fitted on embeddings of fingerprint 0000"):
        client.classify([item_id(0)], support="open", calibration="mine")
    with pytest.raises(FingerprintMismatchError, match="fit it again"):
        client.evaluate("open", calibration="mine")


def test_a_plot_of_an_evaluation_is_a_picture(client: Client, tmp_path: object) -> None:
    from pathlib import Path

    from PIL import Image

    from vicinal.label_plots import plot_evaluation

    path = Path(str(tmp_path)) / "plot.png"
    plot_evaluation(client.evaluate("train"), path)
    with Image.open(path) as picture:
        assert picture.width > 400


def test_labels_outlive_a_snapshot_and_what_left_is_counted(client: Client, store: Store) -> None:
    add_snapshot(store, made_clusters(60)[0])
    client.activate_snapshot("snapshots/000002")
    found = client.get_label_set("train")
    assert (sum(found.classes.values()), found.missing_count) == (80, 20)
    said = client.classify([item_id(3)], support="train")
    assert (said.classifier.example_count, said.classifier.missing_count) == (60, 20)
    with pytest.raises(InvalidLabelError, match="no labelled item is in snapshots/000002"):
        client.classify([item_id(3)], support="test")
    client.activate_snapshot("snapshots/000001")
