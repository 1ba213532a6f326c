"""Loaded models: batching, decoding, loading, hot swaps."""
