"""Run a package for the first time in a restricted process."""
