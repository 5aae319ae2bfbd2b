"""The SQLite file of the label log: its tables, and how it is opened safely.

The log only grows. ``adds`` has a row for each label put on an item; ``drops`` says which batch
took one off. So the labels that hold are the adds without a drop, the labels of an earlier version
are those whose add is not after it and whose drop is, and nothing is ever updated in place.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from vicinal.artifact import sync_path
from vicinal.errors import BusyError, CorruptArtifactError, StorageError

APPLICATION_ID = 0x56_4C_41_42
FORMAT_VERSION = 1
BUSY_TIMEOUT_S = 20.0
# Tables WITHOUT ROWID start with their key, in its order: SQLite 3.40's quick_check takes other columns for NULL.
_TABLES = """
CREATE TABLE label_sets (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, multi_label INTEGER NOT NULL, created_us INTEGER NOT NULL
) STRICT;
CREATE TABLE batches (
  set_id INTEGER NOT NULL REFERENCES label_sets(id), number INTEGER NOT NULL, verb TEXT NOT NULL,
  author TEXT NOT NULL, created_us INTEGER NOT NULL, target INTEGER NOT NULL, change_count INTEGER NOT NULL,
  request_id TEXT, snapshot TEXT NOT NULL,
  PRIMARY KEY (set_id, number)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX batches_by_request ON batches(set_id, request_id) WHERE request_id IS NOT NULL;
CREATE INDEX batches_by_target ON batches(set_id, target) WHERE target > 0;
CREATE TABLE adds (
  id INTEGER PRIMARY KEY, root INTEGER NOT NULL, set_id INTEGER NOT NULL, batch INTEGER NOT NULL,
  item_id TEXT NOT NULL, label TEXT, source INTEGER NOT NULL, author TEXT NOT NULL, confidence REAL NOT NULL,
  created_us INTEGER NOT NULL, snapshot TEXT NOT NULL, rival INTEGER
) STRICT;
CREATE INDEX adds_by_item ON adds(set_id, item_id);
CREATE INDEX adds_by_batch ON adds(set_id, batch);
CREATE TABLE drops (add_id INTEGER PRIMARY KEY REFERENCES adds(id), set_id INTEGER NOT NULL, batch INTEGER NOT NULL)
STRICT;
CREATE INDEX drops_by_batch ON drops(set_id, batch);
CREATE TABLE rejections (
  set_id INTEGER NOT NULL, item_id TEXT NOT NULL, label TEXT NOT NULL, batch INTEGER NOT NULL,
  PRIMARY KEY (set_id, item_id, label, batch)
) STRICT, WITHOUT ROWID;
CREATE TABLE proposals (
  set_id INTEGER NOT NULL, item_id TEXT NOT NULL, label TEXT NOT NULL, probability REAL NOT NULL,
  score REAL NOT NULL, evidence TEXT NOT NULL, PRIMARY KEY (set_id, item_id, label)
) STRICT, WITHOUT ROWID;
CREATE INDEX proposals_by_probability ON proposals(set_id, probability DESC, item_id);
"""


def create(path: Path) -> None:
    """Makes an empty log, whole or not at all.

    The file appears by a hard link of a finished one, so that a file of no length is never a log
    being made but always a damaged one.

    Raises:
        StorageError: the disk is full or failed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(temporary)) as connection:
            connection.executescript(
                f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={FORMAT_VERSION}; {_TABLES}"
            )
        sync_path(temporary)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
        sync_path(path.parent)
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"cannot make the label log {path}: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def connect(path: Path) -> sqlite3.Connection:
    """Opens a log and checks it.

    Raises:
        CorruptArtifactError: it is truncated, damaged, or of an unknown format; the path is named.
        StorageError: it cannot be opened.
    """
    with guard(path):
        if path.stat().st_size == 0:
            raise corrupt(path, "is empty")
        connection = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        try:
            _check(path, connection)
        except BaseException:
            connection.close()
            raise
    return connection


@contextlib.contextmanager
def guard(path: Path) -> Iterator[None]:
    """Turns SQLite's errors into those of Vicinal.

    Raises:
        BusyError: another writer held the log for over 20 seconds.
        CorruptArtifactError: the file is damaged.
        StorageError: the disk is full or failed.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            raise BusyError(f"another process has been writing to {path} for {BUSY_TIMEOUT_S:g} s; retry") from error
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            raise corrupt(path, f"is damaged: {error}") from error
        raise StorageError(f"cannot write the label log {path}: {error}; nothing was acknowledged") from error
    except sqlite3.DatabaseError as error:
        raise corrupt(path, f"is damaged: {error}") from error
    except OSError as error:
        raise StorageError(f"cannot open the label log {path}: {error.strerror or error}") from error


def corrupt(path: Path, what: str) -> CorruptArtifactError:
    """Returns the error for a damaged log."""
    return CorruptArtifactError(
        f"the label log {path} {what}; it was not touched: restore it from a copy, or import an export",
        metadata={"file": path.name, "path": str(path)},
    )


def _check(path: Path, connection: sqlite3.Connection) -> None:
    found = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if found != APPLICATION_ID:
        raise corrupt(path, "is not a label log")
    if version != FORMAT_VERSION:
        raise corrupt(path, f"has format_version {version}, this build reads {FORMAT_VERSION}")
    # Truncation and torn pages show here; the check reads the file once.
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise corrupt(path, f"is damaged: {verdict}")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
