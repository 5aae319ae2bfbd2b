"""FewshotService: classifies queries by a handful of labelled items."""

import numpy as np

from serving.context import Call, ServingContext
from serving.fewshot import evidence
from serving.fewshot.encode import encode_classifier, encode_results
from serving.fewshot.model import FAMILY
from serving.fewshot.models import Models
from serving.fewshot.support import at_scale
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


class FewshotServicer:
    """Answers FewshotService.

    Args:
        context: what it works with.
    """

    def __init__(self, context: ServingContext) -> None:
        self._context = context
        self.models = Models(lambda: shared_log(context.store), context.queries)

    async def Classify(self, request: pb.ClassifyRequest, call: Call) -> pb.ClassifyResponse:  # noqa: N802
        """Classifies queries."""
        generation = await self._context.generations.take(request.snapshot)
        return await self._context.run(self._classify, generation, request, call)

    async def ListClassifiers(self, request: pb.ListClassifiersRequest, call: Call) -> pb.ListClassifiersResponse:  # noqa: ARG002, N802
        """Lists the classifiers, all on one page."""
        return pb.ListClassifiersResponse(
            classifiers=[
                pb.Classifier(name=name.replace("_", "-"), description=plugins.load(FAMILY, name).DESCRIPTION)
                for name in plugins.names(FAMILY)
            ]
        )

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
                threshold=fit.model.detector.threshold,
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
