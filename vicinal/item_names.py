"""How the name of a file or archive member becomes an item: id, label, and whether it is an image.

Ids are printable: bytes that are not UTF-8 and characters that do not print (control characters,
direction overrides) are written as ``%`` and two hexadecimal digits for each byte of theirs.
"""

from pathlib import PurePosixPath

from vicinal.corpus import IMAGE_SUFFIXES, Quarantined

_JUNK = "__MACOSX"


def printable(name: str) -> str:
    """Returns a name with everything that does not print escaped.

    Args:
        name: a name as Python gives it, with lone surrogates for bytes that are not UTF-8.
    """
    if name.isprintable():
        return name
    return "".join(char if char.isprintable() else "".join(f"%{byte:02X}" for byte in _bytes(char)) for char in name)


def _bytes(char: str) -> bytes:
    # U+DC80 to U+DCFF stand for bytes that are not UTF-8; other lone surrogates come out of JSON.
    return char.encode("utf-8", "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass")


def is_image_name(path: str) -> bool:
    """Says whether a path inside a corpus is taken for an image: by its suffix, and nothing in it hidden."""
    parts = path.split("/")
    last = parts[-1]
    dot = last.rfind(".")
    if dot < 1 or last[dot:].lower() not in IMAGE_SUFFIXES:
        return False
    return not any(part == _JUNK or (part.startswith(".") and part not in {".", ".."}) for part in parts)


def label_of(path: str) -> str | None:
    """Returns the folder that holds the file, as its class for evaluation, or None at the top of the corpus."""
    return PurePosixPath(path).parent.name or None


def member_path(name: str) -> str | Quarantined:
    """Returns the path of an archive member, relative and printable.

    Args:
        name: as the archive has it; ``./`` and a leading ``/`` are dropped.

    Returns:
        The path, or a quarantine entry for a name that climbs out with ``..``.
    """
    shown = printable(name)
    parts = [part for part in shown.split("/") if part not in {"", "."}]
    if ".." in parts:
        message = "its name climbs out of the archive with '..'; pack the archive again without it"
        return Quarantined(item_id=shown, reason="UNSAFE_NAME", message=message)
    return "/".join(parts)
