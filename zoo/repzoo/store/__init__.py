"""A hub in a folder that packages are published to, with every revision of them."""
