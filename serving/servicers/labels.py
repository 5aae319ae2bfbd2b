"""LabelService: label sets, proposals, and what to label next."""

from collections.abc import AsyncIterator, Callable
from functools import cached_property
from typing import ParamSpec, TypeVar

from serving.context import Call, ServingContext
from serving.fewshot.models import Models
from serving.generation import Generation
from serving.labels import encode, formats, proposals
from serving.labels.log import LabelLog, shared_log
from serving.labels.work import LabelWork, count_missing
from vicinal.errors import InvalidLabelError, ItemNotFoundError, NoActiveSnapshotError
from vicinal.v1 import label_service_pb2 as pb
from vicinal.v1 import types_pb2

P = ParamSpec("P")
T = TypeVar("T")
PUT_LIMIT = 10_000
MAX_IMPORT_BYTES = 1 << 30
_CHUNK_BYTES = 1 << 20


class LabelServicer:
    """Answers LabelService.

    Args:
        context: what it works with.
    """

    def __init__(self, context: ServingContext) -> None:
        self._context = context

    @cached_property
    def log(self) -> LabelLog:
        """The label log; opened when it is first needed, so that a damaged one stops nothing else."""
        return shared_log(self._context.store)

    @cached_property
    def work(self) -> LabelWork:
        """What needs both log and snapshot."""
        return LabelWork(self.log, Models(lambda: self.log, self._context.queries))

    def close(self) -> None:
        """Closes the log, if it was opened; the server is stopping."""
        if "log" in self.__dict__:
            self.log.close()

    async def CreateLabelSet(self, request: pb.CreateLabelSetRequest, call: Call) -> pb.CreateLabelSetResponse:
        """Makes a label set."""
        found = await self._run(lambda: self.log.create_set(request.label_set_id, multi_label=request.multi_label))
        return pb.CreateLabelSetResponse(label_set=encode.encode_set(found))

    async def GetLabelSet(self, request: pb.GetLabelSetRequest, call: Call) -> pb.GetLabelSetResponse:
        """Returns a label set with its counts."""
        version = request.version if request.HasField("version") else None
        generation = self._generation()
        found = await self._run(lambda: self.work.describe(generation, request.name, version))
        return pb.GetLabelSetResponse(label_set=found, snapshot=_ref(generation))

    async def ListLabelSets(self, request: pb.ListLabelSetsRequest, call: Call) -> pb.ListLabelSetsResponse:
        """Lists the label sets."""
        size = encode.page_size(request.page_size, default=100, limit=1000)
        place = encode.read_token(request.page_token, str)
        after = str(place[0]) if place else ""
        found = [one for one in await self._run(self.log.list_sets) if one.name > after]
        token = encode.make_token(found[size - 1].name) if len(found) > size else ""
        return pb.ListLabelSetsResponse(
            label_sets=[encode.encode_set(one) for one in found[:size]], next_page_token=token
        )

    async def DeleteLabelSet(self, request: pb.DeleteLabelSetRequest, call: Call) -> pb.DeleteLabelSetResponse:
        """Hides a label set."""
        author = request.author or call.client
        batch = await self._run(lambda: self.log.delete_set(request.name, author=author))
        return pb.DeleteLabelSetResponse(batch=encode.encode_batch(batch))

    async def PutLabels(self, request: pb.PutLabelsRequest, call: Call) -> pb.PutLabelsResponse:
        """Labels items, as one batch."""
        _check_count(len(request.labels))
        return await self._run(self._put, request, call)

    async def RemoveLabels(self, request: pb.RemoveLabelsRequest, call: Call) -> pb.RemoveLabelsResponse:
        """Takes labels off items, as one batch."""
        _check_count(len(request.labels))
        author = request.author or call.client
        pairs = [(one.item_id, one.label or None) for one in request.labels]
        batch = await self._run(
            lambda: self.log.remove(request.name, pairs, author=author, request_id=request.request_id)
        )
        return pb.RemoveLabelsResponse(batch=encode.encode_batch(batch))

    async def ListLabels(self, request: pb.ListLabelsRequest, call: Call) -> pb.ListLabelsResponse:
        """Lists the labels that hold."""
        return await self._run(self._list_labels, request)

    async def RenameClass(self, request: pb.RenameClassRequest, call: Call) -> pb.RenameClassResponse:
        """Renames or merges a class."""
        author = request.author or call.client
        batch, merged = await self._run(
            lambda: self.log.rename(request.name, request.label, request.new_label, author=author)
        )
        return pb.RenameClassResponse(batch=encode.encode_batch(batch), merged=merged)

    async def ListBatches(self, request: pb.ListBatchesRequest, call: Call) -> pb.ListBatchesResponse:
        """Lists batches, newest first."""
        size = encode.page_size(request.page_size, default=100, limit=1000)
        place = encode.read_token(request.page_token, int)
        before = int(place[0]) if place else 0
        found = await self._run(lambda: self.log.batches(request.name, before=before, limit=size + 1))
        token = encode.make_token(found[size - 1].number) if len(found) > size else ""
        return pb.ListBatchesResponse(batches=[encode.encode_batch(one) for one in found[:size]], next_page_token=token)

    async def UndoBatch(self, request: pb.UndoBatchRequest, call: Call) -> pb.UndoBatchResponse:
        """Undoes a batch."""
        author = request.author or call.client
        batch = await self._run(lambda: self.log.undo(request.name, request.batch, author=author))
        return pb.UndoBatchResponse(batch=encode.encode_batch(batch), skipped_count=batch.skipped_count)

    async def RedoBatch(self, request: pb.RedoBatchRequest, call: Call) -> pb.RedoBatchResponse:
        """Does an undone batch again."""
        author = request.author or call.client
        batch = await self._run(lambda: self.log.redo(request.name, request.batch, author=author))
        return pb.RedoBatchResponse(batch=encode.encode_batch(batch), skipped_count=batch.skipped_count)

    async def ListConflicts(self, request: pb.ListConflictsRequest, call: Call) -> pb.ListConflictsResponse:
        """Lists items on which people disagree."""
        size = encode.page_size(request.page_size, default=100, limit=1000)
        place = encode.read_token(request.page_token, str)
        after = str(place[0]) if place else ""
        found = [one for one in await self._run(lambda: self.log.conflicts(request.name)) if one.item_id > after]
        token = encode.make_token(found[size - 1].item_id) if len(found) > size else ""
        return pb.ListConflictsResponse(
            conflicts=[
                pb.Conflict(item_id=one.item_id, labels=[encode.encode_label(row) for row in one.labels])
                for one in found[:size]
            ],
            next_page_token=token,
        )

    async def Propose(self, request: pb.ProposeRequest, call: Call) -> pb.ProposeResponse:
        """Proposes labels for unlabelled items."""
        generation = self._context.generations.current()
        return await self._run(lambda: self.work.propose(generation, request, call))

    async def ListProposals(self, request: pb.ListProposalsRequest, call: Call) -> pb.ListProposalsResponse:
        """Lists open proposals, most certain first."""
        size = encode.page_size(request.page_size, default=1000, limit=10_000)
        place = encode.read_token(request.page_token, float, str)
        after = (float(place[0]), str(place[1])) if place else None
        found = await self._run(
            lambda: proposals.listed(self.log, request.name, label=request.label, after=after, limit=size + 1)
        )
        token = ""
        if len(found) > size:
            token = encode.make_token(float(found[size - 1].probability), found[size - 1].item_id)
        return pb.ListProposalsResponse(
            proposals=[encode.encode_proposal(one) for one in found[:size]], next_page_token=token
        )

    async def AcceptProposals(self, request: pb.AcceptProposalsRequest, call: Call) -> pb.AcceptProposalsResponse:
        """Accepts proposals, as one batch."""
        choice = encode.decode_choice(request.item_ids, request.rule if request.HasField("rule") else None)
        generation = self._generation()
        batch = await self._run(
            lambda: proposals.accept(
                self.log,
                request.name,
                choice,
                author=request.author or call.client,
                request_id=request.request_id,
                snapshot=_name(generation),
            )
        )
        return pb.AcceptProposalsResponse(batch=encode.encode_batch(batch), snapshot=_ref(generation))

    async def RejectProposals(self, request: pb.RejectProposalsRequest, call: Call) -> pb.RejectProposalsResponse:
        """Rejects proposals, as one batch."""
        choice = encode.decode_choice(request.item_ids, request.rule if request.HasField("rule") else None)
        author = request.author or call.client
        batch = await self._run(lambda: proposals.reject(self.log, request.name, choice, author=author))
        return pb.RejectProposalsResponse(rejected_count=batch.change_count, batch=encode.encode_batch(batch))

    async def SuggestNext(self, request: pb.SuggestNextRequest, call: Call) -> pb.SuggestNextResponse:
        """Suggests items to label next."""
        generation = self._context.generations.current()
        return await self._run(lambda: self.work.suggest(generation, request, call))

    async def ExportLabels(
        self,
        request: pb.ExportLabelsRequest,
        call: Call,
    ) -> AsyncIterator[pb.ExportLabelsResponse]:
        """Sends a label set as a file."""
        formats.find(request.format)
        version = request.version if request.HasField("version") else None
        content = await self._run(lambda: formats.write(request.format, self.log.labels(request.name, version=version)))
        for start in range(0, max(len(content), 1), _CHUNK_BYTES):
            yield pb.ExportLabelsResponse(data=content[start : start + _CHUNK_BYTES])

    async def ImportLabels(
        self, requests: AsyncIterator[pb.ImportLabelsRequest], call: Call
    ) -> pb.ImportLabelsResponse:
        """Reads a file into a label set, as one batch."""
        first: pb.ImportLabelsRequest | None = None
        content = bytearray()
        async for request in requests:
            first = first or request
            content += request.data
            if len(content) > MAX_IMPORT_BYTES:
                raise InvalidLabelError(f"the file is over {MAX_IMPORT_BYTES >> 20} MiB; import it in parts")
        if first is None:
            raise InvalidLabelError("the import has no message; the first names the set and the format")
        return await self._run(self._import, first, bytes(content), call)

    def _put(self, request: pb.PutLabelsRequest, call: Call) -> pb.PutLabelsResponse:
        entries = encode.decode_entries(request.labels, caller=call.client)
        generation = self._generation()
        missing_count = _missing(generation, {entry.item_id for entry in entries}, refuse=request.known_items_only)
        batch = self.log.put(request.name, entries, request_id=request.request_id, snapshot=_name(generation))
        return pb.PutLabelsResponse(
            batch=encode.encode_batch(batch), missing_count=missing_count, snapshot=_ref(generation)
        )

    def _import(self, first: pb.ImportLabelsRequest, content: bytes, call: Call) -> pb.ImportLabelsResponse:
        entries = formats.read(first.format, content, author=first.author or call.client)
        generation = self._generation()
        served = _name(generation)
        batch = self.log.put(first.name, entries, request_id=first.request_id, snapshot=served, verb="import")
        missing_count = _missing(generation, {entry.item_id for entry in entries}, refuse=False)
        return pb.ImportLabelsResponse(
            batch=encode.encode_batch(batch), missing_count=missing_count, snapshot=_ref(generation)
        )

    def _list_labels(self, request: pb.ListLabelsRequest) -> pb.ListLabelsResponse:
        size = encode.page_size(request.page_size, default=1000, limit=10_000)
        wanted = request.version if request.HasField("version") else None
        place = encode.read_token(request.page_token, str, int)
        after, wanted = (str(place[0]), int(place[1])) if place else ("", wanted)
        version = self.log.check_version(request.name, wanted)
        rows = self.log.labels(request.name, version=version, label=request.label, after=after, limit=size)
        token = encode.make_token(rows[-1].item_id, version) if len(rows) >= size else ""
        return pb.ListLabelsResponse(
            labels=[encode.encode_label(row) for row in rows], next_page_token=token, version=version
        )

    def _generation(self) -> Generation | None:
        try:
            return self._context.generations.current()
        except NoActiveSnapshotError:
            return None

    async def _run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._context.run(function, *args, **kwargs)


def _missing(generation: Generation | None, item_ids: set[str], *, refuse: bool) -> int:
    if generation is None:
        if refuse:
            raise NoActiveSnapshotError("known_items_only needs an active snapshot; publish one")
        return len(item_ids)
    count = count_missing(generation, item_ids)
    if refuse and count:
        gone = next(one for one in sorted(item_ids) if generation.snapshot.items.find(one) is None)
        raise ItemNotFoundError(
            f"{count} items are not in {generation.ref.name}, the first is {gone[:200]!r}; nothing was labelled",
            metadata={"item_id": gone[:200]},
        )
    return count


def _name(generation: Generation | None) -> str:
    return generation.ref.name if generation is not None else ""


def _ref(generation: Generation | None) -> types_pb2.SnapshotRef | None:
    return generation.ref_message if generation is not None else None


def _check_count(count: int) -> None:
    if not 1 <= count <= PUT_LIMIT:
        raise InvalidLabelError(f"{count:,} labels in a request, wanted 1 to {PUT_LIMIT:,}", field="labels")
