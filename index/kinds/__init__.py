"""One file a kind of index; each has ``KIND``, an ``index.kind.Kind``."""
