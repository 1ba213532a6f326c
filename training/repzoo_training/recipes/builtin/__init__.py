"""The built-in recipes: one module per data set, each with its ``RECIPES``."""
