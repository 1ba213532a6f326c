"""Loaded models: batching, decoding, loading and hot swaps."""
