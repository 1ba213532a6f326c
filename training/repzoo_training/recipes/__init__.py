"""Recipes: the settings of a training run, and the built-in ones."""
