"""flat_f16: every vector is scanned in half precision; a short list is scored again on the full vectors."""

from index.flat_codes import FlatCodesKind

KIND = FlatCodesKind("QT_fp16", bytes_per_value=2)
