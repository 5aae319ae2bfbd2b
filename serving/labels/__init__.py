"""Label sets: an append-only log keyed by item id, proposals, and what to label next."""
