"""The recipes that ship: one module a data set, each with its ``RECIPES``."""
