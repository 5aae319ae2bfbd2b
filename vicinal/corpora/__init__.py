"""Corpus readers: one file each, with ``recognises(location) -> bool`` and a ``Reader`` (a vicinal.corpus.Corpus)."""
