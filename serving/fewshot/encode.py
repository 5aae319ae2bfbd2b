"""Writes what a few-shot model says as messages."""

from datetime import datetime

import numpy as np

from serving.fewshot import evidence
from serving.fewshot.calibrations import Calibration
from serving.fewshot.evaluate import Evaluation
from serving.fewshot.model import FewshotModel, Origin, Prediction
from vicinal.codec import encode_error, encode_time
from vicinal.errors import VicinalError
from vicinal.types import F32Array
from vicinal.v1 import fewshot_service_pb2 as pb


def encode_classifier(model: FewshotModel) -> pb.FittedClassifier:
    """Describes a fitted classifier."""
    message = pb.FittedClassifier(
        name=model.head.name,
        temperature=model.head.temperature,
        example_count=model.support.y_N.shape[0],
        class_count=len(model.support.classes),
        missing_count=model.support.missing_count,
        accuracy_lower=model.interval[0],
        accuracy_upper=model.interval[1],
    )
    if model.accuracy is not None:
        message.accuracy = model.accuracy
    return message


def encode_results(
    model: FewshotModel,
    said: Prediction,
    *,
    near: evidence.Nearest,
    class_count: int,
    limits: tuple[F32Array, F32Array],
    errors: list[VicinalError | None],
) -> list[pb.Classification]:
    """Encodes the answers to Q queries.

    Args:
        model: which answered.
        said: its predictions.
        near: the examples nearest to each query.
        class_count: probabilities to return for each; cut to the classes there are.
        limits: unknown score and threshold of each query, float32 (Q,) each.
        errors: what was wrong with each query.
    """
    classes = model.support.classes
    order_QC = np.argsort(-said.p_QC, axis=1, kind="stable")
    labels = [*(classes[y] for y in model.support.y_N), *[""] * model.support.negative_MD.shape[0]]
    results = []
    for q, error in enumerate(errors):
        if error is not None:
            results.append(pb.Classification(error=encode_error(error)))
            continue
        order = order_QC[q]
        best = int(order[0])
        results.append(
            pb.Classification(
                label=classes[best],
                probability=said.p_QC[q, best],
                probabilities=[
                    pb.ClassProbability(label=classes[c], probability=said.p_QC[q, c]) for c in order[:class_count]
                ],
                conformal_set=[classes[c] for c in order if said.member_QC[q, c]],
                unknown=bool(limits[0][q] > limits[1][q]),
                unknown_score=limits[0][q],
                unknown_threshold=limits[1][q],
                evidence=[
                    _evidence(model.support.origins[place], labels[place], score)
                    for place, score in zip(near.places_QK[q], near.scores_QK[q], strict=True)
                ],
            )
        )
    return results


def _evidence(origin: Origin, label: str, score: float) -> pb.Evidence:
    return pb.Evidence(item_id=origin.item_id, example=origin.place, label=label, score=score)


def encode_calibration(found: Calibration) -> pb.Calibration:
    """Encodes a calibration with its full curve."""
    return pb.Calibration(
        name=found.name,
        fingerprint=found.fingerprint,
        thresholds=[
            pb.Threshold(
                target=one.target,
                label=one.label,
                score=one.score,
                value=one.value,
                reached=one.reached,
                rejection_rate=one.rejection_rate,
            )
            for one in found.thresholds
        ],
        default_target=found.default_target,
        create_time=encode_time(datetime.fromisoformat(found.created_at)),
        curve=[
            pb.ThresholdPoint(score=score, precision=precision, recall=recall, f1=f1, fpr=fpr)
            for score, precision, recall, f1, fpr in found.curve
        ],
    )


def encode_evaluation(found: Evaluation, model: FewshotModel) -> pb.EvaluateResponse:
    """Encodes an evaluation, but for the snapshot."""
    return pb.EvaluateResponse(
        metrics=found.metrics,
        labels=found.labels,
        confusion=found.confusion_CC.ravel().tolist(),
        classifier=encode_classifier(model),
        reliability=[
            pb.ReliabilityBin(
                lower=one.lower, upper=one.upper, confidence=one.confidence, accuracy=one.accuracy, count=one.count
            )
            for one in found.reliability
        ],
    )
