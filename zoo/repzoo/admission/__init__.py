"""Run a package for the first time in a process that can do no harm."""
