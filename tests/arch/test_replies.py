"""Every reply names the snapshot that answered; those that no snapshot answers are listed here, one by one."""

from vicinal.v1 import fewshot_service_pb2, label_service_pb2, search_service_pb2, snapshot_service_pb2, types_pb2

ANSWERED_BY_NO_SNAPSHOT = {
    # The list of snapshots, and the jobs that make them.
    "ListSnapshots",
    "StartRefresh",
    "GetOperation",
    "ListOperations",
    "CancelOperation",
    # What this build can do.
    "ListClassifiers",
    # The label log alone: labels belong to items, whatever is served.
    "CreateLabelSet",
    "ListLabelSets",
    "DeleteLabelSet",
    "RemoveLabels",
    "ListLabels",
    "RenameClass",
    "ListBatches",
    "UndoBatch",
    "RedoBatch",
    "ListConflicts",
    "ListProposals",
    "RejectProposals",
    "ExportLabels",
    # Each answer of the stream is a SearchResponse.
    "StreamSearch",
}


def test_every_reply_names_the_snapshot_that_answered() -> None:
    files = (search_service_pb2, snapshot_service_pb2, fewshot_service_pb2, label_service_pb2)
    methods = [
        one for file in files for service in file.DESCRIPTOR.services_by_name.values() for one in service.methods
    ]
    nameless = {
        method.name
        for method in methods
        if not any(field.message_type is types_pb2.SnapshotRef.DESCRIPTOR for field in method.output_type.fields)
    }
    assert nameless == ANSWERED_BY_NO_SNAPSHOT
