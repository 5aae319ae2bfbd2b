"""Where the index of a snapshot lives when not in the process that searches: one file an engine."""
