"""flat_sq8: every vector is scanned with each value in 8 bits; a short list is scored again on the full vectors."""

from index.flat_codes import FlatCodesKind

KIND = FlatCodesKind("QT_8bit", bytes_per_value=1)
