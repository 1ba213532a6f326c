"""Data parallelism as objectives and batch normalisation see it."""
