"""Reads the label log on disk: which label each item has, for stages that do not write labels.

The log is an SQLite file of ``application_id`` VLAB, version 1, that only grows: ``adds`` has a row
for each label that was put on an item, ``drops`` one for each that was taken off, and a set is hidden
by a batch ``delete`` until that is undone. It is opened read-only; nothing is made or changed.
"""

import contextlib
import sqlite3
from pathlib import Path

from vicinal.errors import CorruptArtifactError
from vicinal.store import Store

APPLICATION_ID = 0x56_4C_41_42
FORMAT_VERSION = 1
_DELETED = """
SELECT 1 FROM batches b WHERE b.set_id = :set AND b.verb = 'delete'
  AND b.number = (SELECT max(number) FROM batches WHERE set_id = :set AND verb = 'delete')
  AND coalesce(
    (SELECT u.verb FROM batches u WHERE u.set_id = :set AND u.target = b.number ORDER BY u.number DESC LIMIT 1), 'redo'
  ) != 'undo'
"""
_LABELS = """
SELECT a.item_id, a.label FROM adds a LEFT JOIN adds r ON r.id = a.rival
WHERE a.set_id = :set AND a.label IS NOT NULL AND (r.id IS NULL OR r.label IS a.label)
  AND NOT EXISTS (SELECT 1 FROM drops d WHERE d.add_id = a.id)
"""


def read_label_tables(store: Store) -> dict[str, dict[str, str]]:
    """Returns the label of each item, by label set.

    Sets whose items may have several labels are left out, and so are deleted sets, items marked as none
    of the classes, and items on which two people disagree.

    Args:
        store: the workspace; one without labels has no tables.

    Raises:
        CorruptArtifactError: the label log is damaged or of an unknown version; it is named.
    """
    path = store.root / "labels" / "labels.db"
    if not path.is_file():
        return {}
    try:
        with contextlib.closing(_connect(path)) as db:
            db.execute("BEGIN")
            sets = db.execute("SELECT id, name FROM label_sets WHERE multi_label = 0 ORDER BY name").fetchall()
            kept = [(key, name) for key, name in sets if db.execute(_DELETED, {"set": key}).fetchone() is None]
            return {str(name): dict(db.execute(_LABELS, {"set": key}).fetchall()) for key, name in kept}
    except sqlite3.Error as error:
        raise CorruptArtifactError(f"the label log {path} cannot be read: {error}", metadata={"file": path.name}) from (
            error
        )


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=20.0, isolation_level=None)
    known = {"application_id": APPLICATION_ID, "user_version": FORMAT_VERSION}
    for name, wanted in known.items():
        found = db.execute(f"PRAGMA {name}").fetchone()[0]
        if found != wanted:
            db.close()
            raise CorruptArtifactError(
                f"the label log {path} has {name} {found}, this build reads {wanted}", metadata={"file": path.name}
            )
    return db
