"""Every classifier keeps one contract; closed forms are held to refits, and figures to scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from serving.classifiers import auto, ridge
from serving.fewshot.folds import fold_numbers, folds
from serving.fewshot.head import Head, fit_temperature, judged, log_losses, softmax
from serving.fewshot.space import centered, class_balanced_mean, one_hot, unit
from tests.serving.labelled_workspace import made_clusters
from vicinal import plugins
from vicinal.types import F32Array, I64Array

FAMILY = "serving.classifiers"
NAMES = plugins.names(FAMILY)


def support(shots: int, *, noise: float = 2.0, seed: int = 0) -> tuple[F32Array, I64Array, F32Array, I64Array]:
    x_ND, y_N = made_clusters(4 * shots + 800, noise=noise, seed=seed)
    center_D = x_ND.mean(axis=0)
    x_ND = centered(x_ND, center_D)
    return x_ND[: 4 * shots], y_N[: 4 * shots], x_ND[4 * shots :], y_N[4 * shots :]


def test_the_classifiers_of_the_contract_are_there() -> None:
    assert set(NAMES) >= {"auto", "blend", "knn", "logistic", "prototype", "ridge"}
    assert all(plugins.load(FAMILY, name).DESCRIPTION.endswith(".") for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shots", [1, 2, 20])
def test_probabilities_are_float32_rows_that_sum_to_one(name: str, shots: int) -> None:
    x_ND, y_N, q_QD, _ = support(shots)
    head = plugins.load(FAMILY, name).fit(x_ND, y_N, class_count=4)
    p_QC = head.predict(q_QD)
    assert p_QC.dtype == np.float32
    assert p_QC.shape == (len(q_QD), 4)
    assert (p_QC >= 0).all()
    np.testing.assert_allclose(p_QC.sum(axis=1), 1, atol=1e-5)
    assert head.held_out_NC.shape == (len(y_N), 4)
    assert judged(head.held_out_NC).size == (0 if shots == 1 else len(y_N))
    assert head.predict(q_QD[:0]).shape == (0, 4)


@pytest.mark.parametrize("name", NAMES)
def test_twenty_examples_a_class_tell_clusters_apart(name: str) -> None:
    x_ND, y_N, q_QD, y_Q = support(20, noise=1.0)
    head = plugins.load(FAMILY, name).fit(x_ND, y_N, class_count=4)
    assert (head.predict(q_QD).argmax(axis=1) == y_Q).mean() > 0.97


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_mean_what_they_say(name: str) -> None:
    confidence, right = [], []
    for seed in range(5):
        x_ND, y_N, q_QD, y_Q = support(10, noise=3.5, seed=seed)
        p_QC = plugins.load(FAMILY, name).fit(x_ND, y_N, class_count=4).predict(q_QD)
        confidence.append(p_QC.max(axis=1))
        right.append(p_QC.argmax(axis=1) == y_Q)
    assert abs(np.mean(confidence) - np.mean(right)) < 0.06


@pytest.mark.parametrize("name", NAMES)
def test_a_class_with_many_examples_is_not_favoured(name: str) -> None:
    x_ND, y_N, q_QD, _ = support(40)
    kept = np.flatnonzero((y_N == 0) | (np.arange(len(y_N)) < 20))
    head = plugins.load(FAMILY, name).fit(x_ND[kept], y_N[kept], class_count=4)
    said = head.predict(q_QD).argmax(axis=1)
    assert (said == 0).mean() < 0.45


@pytest.mark.parametrize("name", NAMES)
def test_one_class_is_certain_and_one_example_is_enough(name: str) -> None:
    head = plugins.load(FAMILY, name).fit(np.eye(1, 8, dtype=np.float32), np.zeros(1, np.int64), class_count=1)
    np.testing.assert_allclose(head.predict(np.eye(3, 8, dtype=np.float32)), 1)


def test_folds_hold_one_example_of_each_class_and_cover_all_that_can_be_judged() -> None:
    y_N = np.array([2, 0, 0, 1, 2, 0, 3, 2], np.int64)
    assert fold_numbers(y_N).tolist() == [0, 0, 1, 0, 1, 2, 0, 2]
    parts = list(folds(y_N))
    assert sorted(np.concatenate(parts).tolist()) == [0, 1, 2, 4, 5, 7]
    assert all(len(set(y_N[rows])) == len(rows) for rows in parts)
    assert list(folds(np.arange(3, dtype=np.int64))) == []
    assert len(list(folds(np.zeros(100, np.int64), limit=10))) == 10


@pytest.mark.parametrize("dimension", [8, 200])
def test_ridge_held_out_predictions_equal_refits(dimension: int) -> None:
    rng = np.random.default_rng(0)
    y_N = (np.arange(60) % 3).astype(np.int64)
    x_ND = unit(rng.standard_normal((60, dimension)).astype(np.float32) + y_N[:, None])
    fitted = ridge.solve(x_ND, y_N, class_count=3, penalty=0.05)
    t_NC = one_hot(y_N, class_count=3)
    for rows in (np.array([7]), np.array([0, 1, 2]), np.array([5, 33])):
        kept = np.setdiff1d(np.arange(60), rows)
        peer = Ridge(alpha=0.05).fit(x_ND[kept], t_NC[kept], sample_weight=fitted.root_N[kept] ** 2)
        np.testing.assert_allclose(ridge.held_out(fitted, t_NC, rows), peer.predict(x_ND[rows]), atol=2e-4)
    peer = Ridge(alpha=0.05).fit(x_ND, t_NC, sample_weight=fitted.root_N**2)
    np.testing.assert_allclose(x_ND @ fitted.weight_DC + fitted.offset_C, peer.predict(x_ND), atol=1e-4)


def test_ridge_takes_the_penalty_of_least_press() -> None:
    x_ND, y_N, _, _ = support(10)
    chosen = ridge.solve(x_ND, y_N, class_count=4)
    t_NC = one_hot(y_N, class_count=4)

    def press(penalty: float) -> float:
        fitted = ridge.solve(x_ND, y_N, class_count=4, penalty=penalty)
        left = [ridge.held_out(fitted, t_NC, np.array([row]))[0] for row in range(len(y_N))]
        return float(((np.array(left) - t_NC) ** 2).sum())

    assert press(chosen.penalty) < min(press(chosen.penalty * 10), press(chosen.penalty / 10))


@pytest.mark.parametrize("shots", [2, 5, 20])
def test_logistic_agrees_with_scikit_learn(shots: int) -> None:
    from serving.classifiers import logistic

    x_ND, y_N, q_QD, _ = support(shots)
    peer = LogisticRegression(C=logistic.INVERSE_PENALTY, max_iter=5000, tol=1e-6).fit(x_ND, y_N)
    ours = softmax(logistic.fit(x_ND, y_N, class_count=4).scores(q_QD), temperature=1.0)
    # Ours penalises the intercept too, so probabilities differ a little and answers hardly ever.
    assert (ours.argmax(axis=1) == peer.predict(q_QD)).mean() > 0.97
    np.testing.assert_allclose(ours, peer.predict_proba(q_QD), atol=0.05)


def test_temperature_has_the_least_penalised_loss() -> None:
    rng = np.random.default_rng(3)
    y_N = rng.integers(4, size=200)
    z_NC = (rng.standard_normal((200, 4)) + 1.5 * one_hot(y_N, class_count=4)).astype(np.float32)
    found = fit_temperature(z_NC * 7, y_N, prior=5.0)
    assert found == pytest.approx(7 * fit_temperature(z_NC, y_N, prior=5.0 / 7), rel=0.01)

    def cost(temperature: float) -> float:
        return float(
            log_losses(z_NC * 7, y_N, temperature=temperature).sum() + (np.log(temperature / 5) / 0.4) ** 2 / 2
        )

    assert cost(found) <= min(cost(found * 1.05), cost(found / 1.05)) + 1e-3


def test_temperature_is_the_prior_when_nothing_was_held_out() -> None:
    nothing_NC = np.full((3, 2), np.nan, np.float32)
    assert fit_temperature(nothing_NC, np.zeros(3, np.int64), prior=0.25) == 0.25


def test_temperature_stays_within_reach_when_all_is_right() -> None:
    z_NC = one_hot(np.arange(50) % 5, class_count=5)
    assert 0.5 / 41 < fit_temperature(z_NC, np.arange(50) % 5, prior=0.5) < 0.5


def test_auto_answers_with_prototypes_at_one_example_a_class() -> None:
    x_ND, y_N, _, _ = support(1)
    assert auto.fit(x_ND, y_N, class_count=4).name == "prototype"


def test_auto_avoids_prototypes_for_classes_of_many_faces() -> None:
    x_ND, y_N, q_QD, y_Q = support(30, noise=0.5)
    y_N, y_Q = y_N % 2, y_Q % 2  # two clusters a class
    q_QD = q_QD + 0.02 * np.random.default_rng(0).standard_normal(q_QD.shape).astype(np.float32)
    head = auto.fit(x_ND, y_N, class_count=2)
    assert head.name != "prototype"
    assert (head.predict(q_QD).argmax(axis=1) == y_Q).mean() > 0.95


def test_auto_prefers_the_blend_unless_another_is_clearly_better() -> None:
    x_ND, y_N, _, _ = support(10)
    heads = [plugins.load(FAMILY, name).fit(x_ND, y_N, class_count=4) for name in ("blend", "prototype", "knn")]
    assert auto.choose(heads[0], [heads[0]], y_N) is heads[0]
    flat = plugins.load(FAMILY, "blend").combine([heads[1]], y_N)
    spoilt = type(flat)(name="spoilt", scores=flat.scores, held_out_NC=-flat.held_out_NC, temperature=flat.temperature)
    assert auto.choose(spoilt, heads, y_N) in heads


def test_the_blend_weighs_its_members_by_their_held_out_probabilities() -> None:
    x_ND, y_N, q_QD, _ = support(20)
    blend = plugins.load(FAMILY, "blend")
    good = plugins.load(FAMILY, "ridge").fit(x_ND, y_N, class_count=4)
    noise_NC = np.random.default_rng(0).standard_normal(good.held_out_NC.shape).astype(np.float32)
    bad = type(good)(name="bad", scores=lambda q_QD: np.zeros((len(q_QD), 4), np.float32), held_out_NC=noise_NC,
                     temperature=0.1)  # fmt: skip
    both, alone = blend.combine([good, bad], y_N), blend.combine([good], y_N)
    np.testing.assert_allclose(both.predict(q_QD), alone.predict(q_QD), atol=0.05)
    # Nothing held out, nothing known of either: both weigh the same.
    nothing = [type(good)(name="one", scores=head.scores, held_out_NC=np.full_like(noise_NC, np.nan),
                          temperature=1.0) for head in (good, bad)]  # fmt: skip
    p_QC = np.mean([head.predict(q_QD) for head in nothing], axis=0)
    np.testing.assert_allclose(blend.combine(nothing, y_N).predict(q_QD), p_QC, atol=1e-4)


def test_the_weights_of_the_blend_make_the_held_out_labels_most_probable() -> None:
    rng = np.random.default_rng(0)
    y_N = rng.integers(3, size=400)
    p_of_heads = [rng.dirichlet([1, 1, 1], 400).astype(np.float32) for _ in range(3)]
    p_of_heads[1][np.arange(400), y_N] += 0.5
    p_of_heads[2][np.arange(400), y_N] += 0.3
    p_of_heads = [p_NC / p_NC.sum(axis=1, keepdims=True) for p_NC in p_of_heads]
    heads = [Head(name="", scores=lambda q: q, held_out_NC=np.log(p_NC), temperature=1.0) for p_NC in p_of_heads]
    blend = plugins.load(FAMILY, "blend")
    mixed_NC = np.exp(blend.combine(heads, y_N).held_out_NC)
    loss = -np.log(mixed_NC[np.arange(400), y_N]).mean()
    peers = rng.dirichlet([1, 1, 1], 500)
    mean_MN = np.einsum("mh,hn->mn", peers, np.stack([p_NC[np.arange(400), y_N] for p_NC in p_of_heads]))
    assert loss <= -np.log(mean_MN).mean(axis=1).min() + 2e-3


def test_class_balanced_mean_weighs_classes_the_same() -> None:
    x_ND = np.array([[0, 0], [0, 0], [0, 0], [4, 8]], np.float32)
    np.testing.assert_allclose(class_balanced_mean(x_ND, np.array([0, 0, 0, 1]), class_count=2), [2, 4])
