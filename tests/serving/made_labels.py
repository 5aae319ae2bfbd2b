"""Label entries for the tests of the label log."""

from collections.abc import Mapping

from serving.labels.log import LabelLog
from serving.labels.records import Entry, Source

Labels = dict[str, str | None]


def entries(labels: Mapping[str, str | None], *, author: str = "ann", source: Source = Source.HUMAN) -> list[Entry]:
    return [Entry(item_id=item, label=label, author=author, source=source) for item, label in labels.items()]


def held(log: LabelLog, *, version: int | None = None, name: str = "pets") -> Labels:
    return {row.item_id: row.label for row in log.labels(name, version=version)}
