"""Turns unlabelled images into an encoder, a searchable index and a gRPC similarity service."""

__version__ = "0.1.0"
