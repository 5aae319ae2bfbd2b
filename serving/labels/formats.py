"""Label sets as files: CSV, JSONL, Parquet, COCO classification, Label Studio JSON.

Every format is written and read by hand of plain parsers; nothing is ever unpickled. What a format
cannot say (who, when, how sure) is left out when it is written and has its default when it is read.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from serving.labels.records import Entry, LabelRow, Source
from vicinal.errors import InvalidArgumentError, InvalidLabelError, did_you_mean

CSV_COLUMNS = ("item_id", "label", "negative", "source", "author", "confidence", "created_at", "snapshot")
_MODEL_VERSION = "vicinal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A file format."""

    suffix: str
    """Of its files, such as ``.csv``."""
    write: Callable[[Sequence[LabelRow]], bytes]
    """Makes the file."""
    read: Callable[[bytes], list[Entry]]
    """Reads the file."""


def write(name: str, rows: Sequence[LabelRow]) -> bytes:
    """Returns a label set as a file.

    Args:
        name: of the format.
        rows: the labels that hold.

    Raises:
        InvalidArgumentError: an unknown format.
    """
    return find(name).write(rows)


def read(name: str, content: bytes, *, author: str = "") -> list[Entry]:
    """Reads labels from a file.

    Args:
        name: of the format.
        content: the file.
        author: said where the file names nobody.

    Returns:
        The labels, as imported ones.

    Raises:
        InvalidArgumentError: an unknown format.
        InvalidLabelError: the file is not of that format, or a row is wrong; the row is named.
    """
    chosen = find(name)
    try:
        found = chosen.read(content)
    except InvalidLabelError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, csv.Error) as error:
        what = str(error)[:200] or type(error).__name__
        raise InvalidLabelError(f"the file is not {name}: {what}; nothing was imported") from error
    if not found:
        raise InvalidLabelError(f"the {name} file holds no labels; nothing was imported")
    return [
        Entry(
            item_id=one.item_id,
            label=one.label,
            source=Source.IMPORTED,
            author=one.author or author,
            confidence=one.confidence,
        )
        for one in found
    ]


def find(name: str) -> Format:
    """Returns a format.

    Raises:
        InvalidArgumentError: there is none of that name.
    """
    wanted = name.replace("-", "_")
    if wanted not in FORMATS:
        raise InvalidArgumentError(f"unknown format {name[:40]!r}{did_you_mean(wanted, FORMATS)}", field="format")
    return FORMATS[wanted]


def _record(row: LabelRow) -> dict[str, Any]:
    return {
        "item_id": row.item_id,
        "label": row.label or "",
        "negative": row.label is None,
        "source": row.source.name.lower(),
        "author": row.author,
        "confidence": row.confidence,
        "created_at": row.created_at.isoformat(),
        "snapshot": row.snapshot,
    }


def _entry(record: dict[str, Any], where: str) -> Entry:
    item_id, label = record.get("item_id"), record.get("label")
    if not isinstance(item_id, str) or not (label is None or isinstance(label, str)):
        raise InvalidLabelError(f"{where} needs item_id and label, got {sorted(map(str, record))[:10]}")
    negative = str(record.get("negative", "")).lower() in {"true", "1", "yes"}
    if not negative and not label:
        raise InvalidLabelError(f"{where} ({item_id[:100]!r}) has no label and is not negative")
    text = record.get("confidence")
    confidence = 1.0 if text in {None, ""} else float(str(text))
    return Entry(
        item_id=item_id,
        label=None if negative else label,
        author=str(record.get("author") or ""),
        confidence=confidence,
    )


def _write_csv(rows: Sequence[LabelRow]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, CSV_COLUMNS)
    writer.writeheader()
    for row in rows:
        writer.writerow({**_record(row), "negative": str(row.label is None).lower()})
    return text.getvalue().encode()


def _read_csv(content: bytes) -> list[Entry]:
    reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
    if not {"item_id", "label"} <= set(reader.fieldnames or ()):
        raise InvalidLabelError(f"the CSV file needs the columns item_id and label, got {reader.fieldnames}")
    return [_entry(record, f"line {reader.line_num}") for record in reader]


def _write_jsonl(rows: Sequence[LabelRow]) -> bytes:
    return "".join(json.dumps(_record(row), ensure_ascii=False) + "\n" for row in rows).encode()


def _read_jsonl(content: bytes) -> list[Entry]:
    lines = content.decode("utf-8-sig").split("\n")
    return [_entry(json.loads(line), f"line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def _write_parquet(rows: Sequence[LabelRow]) -> bytes:
    import pyarrow as pa  # noqa: PLC0415 - heavy, and this format alone needs it
    import pyarrow.parquet as pq  # noqa: PLC0415

    schema = pa.schema(
        [(name, pa.bool_() if name == "negative" else pa.string()) for name in CSV_COLUMNS if name != "confidence"]
        + [("confidence", pa.float64())]
    )
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([_record(row) for row in rows], schema=schema), sink)
    return sink.getvalue().to_pybytes()


def _read_parquet(content: bytes) -> list[Entry]:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    table = pq.read_table(pa.BufferReader(content))
    return [_entry(record, f"row {number}") for number, record in enumerate(table.to_pylist())]


def _write_coco(rows: Sequence[LabelRow]) -> bytes:
    items = {item: number for number, item in enumerate(dict.fromkeys(row.item_id for row in rows), 1)}
    labels = {name: number for number, name in enumerate(sorted({row.label for row in rows if row.label}), 1)}
    negatives = {row.item_id for row in rows if row.label is None}
    body = {
        "info": {"description": "labels of whole images"},
        "images": [{"id": number, "file_name": item, "negative": item in negatives} for item, number in items.items()],
        "categories": [{"id": number, "name": name} for name, number in labels.items()],
        "annotations": [
            {"id": number, "image_id": items[row.item_id], "category_id": labels[row.label], "score": row.confidence}
            for number, row in enumerate(rows, 1)
            if row.label
        ],
    }
    return json.dumps(body, ensure_ascii=False, indent=1).encode()


def _read_coco(content: bytes) -> list[Entry]:
    body = json.loads(content)
    names = {image["id"]: image["file_name"] for image in body["images"]}
    labels = {category["id"]: category["name"] for category in body["categories"]}
    found = [
        Entry(item_id=names[one["image_id"]], label=labels[one["category_id"]], confidence=float(one.get("score", 1.0)))
        for one in body["annotations"]
    ]
    found += [Entry(item_id=image["file_name"], label=None) for image in body["images"] if image.get("negative")]
    return [_entry(_plain(one), f"annotation {number}") for number, one in enumerate(found)]


def _plain(entry: Entry) -> dict[str, Any]:
    return {
        "item_id": entry.item_id,
        "label": entry.label,
        "negative": entry.label is None,
        "confidence": entry.confidence,
    }


def _write_label_studio(rows: Sequence[LabelRow]) -> bytes:
    tasks: dict[str, dict[str, Any]] = {}
    for row in rows:
        task = tasks.setdefault(row.item_id, {"data": {"image": row.item_id}, "annotations": [], "predictions": []})
        result = {
            "from_name": "label",
            "to_name": "image",
            "type": "choices",
            "value": {"choices": [] if row.label is None else [row.label]},
        }
        if row.source is Source.PROPAGATED:
            task["predictions"].append({"model_version": _MODEL_VERSION, "score": row.confidence, "result": [result]})
        else:
            task["annotations"].append(
                {"completed_by": {"email": row.author}, "created_at": row.created_at.isoformat(), "result": [result]}
            )
    return json.dumps(list(tasks.values()), ensure_ascii=False, indent=1).encode()


def _read_label_studio(content: bytes) -> list[Entry]:
    tasks = json.loads(content)
    if not isinstance(tasks, list):
        raise InvalidLabelError("a Label Studio export is a list of tasks")
    return [entry for number, task in enumerate(tasks) for entry in _of_task(task, number)]


def _of_task(task: dict[str, Any], number: int) -> Iterator[Entry]:
    data = task["data"]
    item_id = data.get("item_id") or data.get("image")
    if not isinstance(item_id, str):
        raise InvalidLabelError(f"task {number} has neither data.image nor data.item_id")
    done = [one for one in task.get("annotations", []) if not one.get("was_cancelled")]
    for one in done or task.get("predictions", []):
        who = one.get("completed_by")
        author = str(who.get("email", "")) if isinstance(who, dict) else str(who or "")
        choices = list(_choices(one["result"]))
        labels: list[str | None] = [*choices] or [None]
        for label in labels:
            yield Entry(item_id=item_id, label=label, author=author, confidence=float(one.get("score") or 1.0))


def _choices(results: Iterable[dict[str, Any]]) -> Iterator[str]:
    for result in results:
        if result.get("type") == "choices":
            yield from result["value"]["choices"]


FORMATS: dict[str, Format] = {
    "csv": Format(suffix=".csv", write=_write_csv, read=_read_csv),
    "jsonl": Format(suffix=".jsonl", write=_write_jsonl, read=_read_jsonl),
    "parquet": Format(suffix=".parquet", write=_write_parquet, read=_read_parquet),
    "coco": Format(suffix=".json", write=_write_coco, read=_read_coco),
    "label_studio": Format(suffix=".json", write=_write_label_studio, read=_read_label_studio),
}
"""Every format by name."""
