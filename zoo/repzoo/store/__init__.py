"""A hub in a folder: packages are published to it, and it keeps every revision."""
