"""What other people's programs import: a blocking and an asyncio client, numpy in, numpy out.

Needs grpc, protobuf and numpy alone. Errors are those of ``vicinal.errors``: the class that the
server raised is raised here.
"""

from vicinal.client.aio import AsyncClient
from vicinal.client.channel import RetryPolicy, Security
from vicinal.client.fewshot import (
    Classification,
    ClassifierInfo,
    ClassifyResult,
    Evidence,
    FittedClassifier,
    SupportExample,
)
from vicinal.client.fewshot_measures import (
    Calibration,
    CalibrationTarget,
    EvaluateResult,
    ReliabilityBin,
    Threshold,
)
from vicinal.client.label_results import (
    Label,
    LabelBatch,
    LabelConflict,
    LabelPage,
    LabelSet,
    Proposal,
    ProposalPage,
    ProposalRule,
    ProposeResult,
    SuggestResult,
)
from vicinal.client.operations import Operation, OperationPage
from vicinal.client.query import Options
from vicinal.client.results import (
    BatchSearchResult,
    CurvePoint,
    EmbedResult,
    Item,
    ItemPage,
    ItemResult,
    Plan,
    SearchResult,
    Snapshot,
    SnapshotPage,
)
from vicinal.client.sync import Client
from vicinal.client.writes import DeleteResult, ItemUpsert, UpsertResult
from vicinal.types import SnapshotRef

__all__ = [
    "AsyncClient",
    "BatchSearchResult",
    "Calibration",
    "CalibrationTarget",
    "Classification",
    "ClassifierInfo",
    "ClassifyResult",
    "Client",
    "CurvePoint",
    "DeleteResult",
    "EmbedResult",
    "EvaluateResult",
    "Evidence",
    "FittedClassifier",
    "Item",
    "ItemPage",
    "ItemResult",
    "ItemUpsert",
    "Label",
    "LabelBatch",
    "LabelConflict",
    "LabelPage",
    "LabelSet",
    "Operation",
    "OperationPage",
    "Options",
    "Plan",
    "Proposal",
    "ProposalPage",
    "ProposalRule",
    "ProposeResult",
    "ReliabilityBin",
    "RetryPolicy",
    "SearchResult",
    "Security",
    "Snapshot",
    "SnapshotPage",
    "SnapshotRef",
    "SuggestResult",
    "SupportExample",
    "Threshold",
    "UpsertResult",
]
