"""The recipes that ship: one module per data set, each with its ``RECIPES``."""
