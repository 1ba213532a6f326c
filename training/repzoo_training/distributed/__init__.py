"""Data parallelism in objectives and batch normalisation."""
