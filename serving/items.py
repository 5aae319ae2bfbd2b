"""Encodes items, and the tokens of pages."""

import base64
import json

from vicinal.codec import encode_time, encode_value
from vicinal.errors import InvalidArgumentError
from vicinal.items import Item
from vicinal.types import JsonObject
from vicinal.v1 import types_pb2

_MAX_TOKEN = 4096


def encode_item(item: Item) -> types_pb2.Item:
    """Encodes one row of an item table."""
    return types_pb2.Item(
        item_id=item.item_id,
        digest=item.digest,
        source=item.source,
        path=item.path,
        added_at=encode_time(item.added_at),
        metadata={name: encode_value(value) for name, value in item.metadata.items()},
    )


def encode_token(what: str, fields: JsonObject) -> str:
    """Returns an opaque page token.

    Args:
        what: the list it belongs to; a token of another list is refused.
        fields: JSON values.
    """
    text = json.dumps({"what": what, **fields}, separators=(",", ":"), sort_keys=True)
    return base64.urlsafe_b64encode(text.encode()).decode()


def decode_token(what: str, token: str, **kinds: type) -> JsonObject:
    """Returns what a page token holds.

    Args:
        what: the list it must belong to.
        token: the token.
        kinds: names and types of its fields.

    Raises:
        InvalidArgumentError: not a token of that list.
    """
    try:
        fields = json.loads(base64.b64decode(token[:_MAX_TOKEN], altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        fields = None
    right = isinstance(fields, dict) and fields.get("what") == what
    if not right or any(type(fields.get(name)) is not kind for name, kind in kinds.items()):
        raise InvalidArgumentError("page_token is not one that this list gave; start without one", field="page_token")
    return {name: fields[name] for name in kinds}


def page_bounds(page_size: int, *, default: int, largest: int) -> int:
    """Returns the entries of a page.

    Args:
        page_size: as requested; 0 takes the default.
        default: entries when nothing is said.
        largest: more than this is cut.

    Raises:
        InvalidArgumentError: page_size is negative.
    """
    if page_size < 0:
        raise InvalidArgumentError(f"page_size is {page_size}, wanted at least 0", field="page_size")
    return min(page_size or default, largest)
