"""Encoder and corpus become embeddings, embeddings become snapshots."""
