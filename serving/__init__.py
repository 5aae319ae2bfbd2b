"""Serves snapshots over gRPC: search, few-shot classification, labels, hot swap."""
