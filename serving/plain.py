"""Which searches are plain: those that the hot path answers."""

from vicinal.v1 import types_pb2

_NEARLY_PLAIN = frozenset({"neighbor_count", "effort", "target_recall"})


def is_plain(options: types_pb2.SearchOptions) -> bool:
    """Returns whether options say nothing but how many neighbors are wanted."""
    fields = options.ListFields()
    return not fields or (len(fields) == 1 and fields[0][0].number == 1)


def is_nearly_plain(options: types_pb2.SearchOptions) -> bool:
    """Returns whether options say nothing but how many neighbors are wanted, and how hard to search for them."""
    return is_plain(options) or _NEARLY_PLAIN.issuperset(field.name for field, _ in options.ListFields())
