"""The ``zoo`` subcommands of training: one module per command.

Each module imports heavy libraries only when its command runs.
"""
