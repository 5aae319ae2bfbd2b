"""FewshotService: classifies queries by a handful of labelled items."""

import numpy as np

from serving.context import Call, ServingContext
from serving.fewshot import calibrations, evidence, thresholds
from serving.fewshot.encode import encode_calibration, encode_classifier, encode_evaluation, encode_results
from serving.fewshot.evaluate import evaluate
from serving.fewshot.model import FAMILY, FewshotModel, Prediction
from serving.fewshot.models import Models
from serving.fewshot.support import at_scale
from serving.fewshot.thresholds import Target
from serving.generation import Generation
from serving.labels.log import shared_log
from vicinal import plugins
from vicinal.errors import InvalidArgumentError
from vicinal.types import F32Array
from vicinal.v1 import fewshot_service_pb2 as pb

MAX_QUERIES = 1000
MAX_EVIDENCE = 100
_DEFAULT_LEVEL = 0.9
_DEFAULT_EVIDENCE = 3
_DEFAULT_CLASSES = 10
_DEFAULT_DEPTH = 10
_DEFAULT_TARGETS = (
    Target(name="best-f1", metric="f1", value=None),
    Target(name="precise", metric="precision", value=0.99),
)


class FewshotServicer:
    """Answers FewshotService.

    Args:
        context: what it works with.
    """

    def __init__(self, context: ServingContext) -> None:
        self._context = context
        self.models = Models(lambda: shared_log(context.store), context.queries)

    async def Classify(self, request: pb.ClassifyRequest, call: Call) -> pb.ClassifyResponse:
        """Classifies queries."""
        generation = await self._context.generations.take(request.snapshot)
        return await self._context.run(self._classify, generation, request, call)

    async def ListClassifiers(self, request: pb.ListClassifiersRequest, call: Call) -> pb.ListClassifiersResponse:
        """Lists the classifiers, all on one page."""
        return pb.ListClassifiersResponse(
            classifiers=[
                pb.Classifier(name=name.replace("_", "-"), description=plugins.load(FAMILY, name).DESCRIPTION)
                for name in plugins.names(FAMILY)
            ]
        )

    async def Calibrate(self, request: pb.CalibrateRequest, call: Call) -> pb.CalibrateResponse:
        """Fits thresholds for named targets and keeps them."""
        generation = self._context.generations.current()
        return await self._context.run(self._calibrate, generation, request, call)

    async def Evaluate(self, request: pb.EvaluateRequest, call: Call) -> pb.EvaluateResponse:
        """Measures a label set."""
        generation = self._context.generations.current()
        return await self._context.run(self._evaluate, generation, request, call)

    def _calibrate(self, generation: Generation, request: pb.CalibrateRequest, call: Call) -> pb.CalibrateResponse:
        support = self.models.support(generation, request.support, call)
        targets = [
            Target(name=one.name, metric=one.metric, value=one.value if one.HasField("value") else None)
            for one in request.targets
        ] or list(_DEFAULT_TARGETS)
        found, curve = thresholds.fit(support, targets, metric=generation.snapshot.metric)
        made = calibrations.make(
            request.name,
            fingerprint=generation.ref.fingerprint,
            thresholds=found,
            curve=curve,
            default_target=request.default_target or targets[0].name,
        )
        calibrations.save(self._context.store, made)
        return pb.CalibrateResponse(calibration=encode_calibration(made), snapshot=generation.ref_message)

    def _evaluate(self, generation: Generation, request: pb.EvaluateRequest, call: Call) -> pb.EvaluateResponse:
        classifier = request.classifier or "auto"
        fit = self.models.get(generation, request.support, classifier=classifier, call=call)
        held_out = (
            self.models.support(generation, request.held_out, call) if request.held_out.WhichOneof("support") else None
        )
        found = evaluate(
            fit.model,
            held_out,
            depth=request.depth or _DEFAULT_DEPTH,
            metric=generation.snapshot.metric,
            calibration=self._calibration(generation, request.calibration),
        )
        reply = encode_evaluation(found, fit.model)
        reply.snapshot.CopyFrom(generation.ref_message)
        return reply

    def _calibration(self, generation: Generation, name: str) -> calibrations.Calibration | None:
        if not name:
            return None
        return calibrations.load(self._context.store, name, fingerprint=generation.ref.fingerprint)

    def _limits(
        self, generation: Generation, name: str, model: FewshotModel, x_QD: F32Array, said: Prediction
    ) -> tuple[F32Array, F32Array]:
        calibration = self._calibration(generation, name)
        if calibration is None:
            return said.unknown_Q, np.full(said.unknown_Q.shape, model.detector.threshold, np.float32)
        matches = thresholds.nearest_to(model.support, x_QD, metric=generation.snapshot.metric)
        return -matches.score_J, -calibration.limits(model.support.classes, matches.said_J)

    def _classify(self, generation: Generation, request: pb.ClassifyRequest, call: Call) -> pb.ClassifyResponse:
        level, evidence_count, class_count = _check(request)
        classifier = request.classifier or "auto"
        plugins.load(FAMILY, classifier)
        fit = self.models.get(generation, request.support, classifier=classifier, call=call)
        resolved = self._context.queries.resolve(generation, request.queries, call)
        x_QD: F32Array = at_scale(generation, resolved.x_QD)
        said = fit.model.predict(x_QD, level=level, transductive=request.transductive)
        near = evidence.nearest(fit.model, x_QD, count=evidence_count, metric=generation.snapshot.metric)
        return pb.ClassifyResponse(
            results=encode_results(
                fit.model,
                said,
                near=near,
                class_count=class_count,
                limits=self._limits(generation, request.calibration, fit.model, x_QD, said),
                errors=resolved.errors,
            ),
            classifier=encode_classifier(fit.model),
            snapshot=generation.ref_message,
            label_set_version=fit.version,
        )


def _check(request: pb.ClassifyRequest) -> tuple[float, int, int]:
    level = request.conformal_level if request.HasField("conformal_level") else _DEFAULT_LEVEL
    evidence_count = request.evidence_count if request.HasField("evidence_count") else _DEFAULT_EVIDENCE
    class_count = request.class_count if request.HasField("class_count") else _DEFAULT_CLASSES
    if not 1 <= len(request.queries) <= MAX_QUERIES:
        raise InvalidArgumentError(
            f"{len(request.queries):,} queries, wanted 1 to {MAX_QUERIES:,}; send several requests", field="queries"
        )
    if not (0 < level < 1 and np.isfinite(level)):
        raise InvalidArgumentError(f"conformal_level is {level:g}, wanted above 0 and below 1", field="conformal_level")
    if not 0 <= evidence_count <= MAX_EVIDENCE:
        raise InvalidArgumentError(
            f"evidence_count is {evidence_count}, wanted 0 to {MAX_EVIDENCE}", field="evidence_count"
        )
    if class_count < 0:
        raise InvalidArgumentError(f"class_count is {class_count}, wanted at least 0", field="class_count")
    return level, evidence_count, class_count or np.iinfo(np.int32).max
