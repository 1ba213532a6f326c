"""The subcommands of ``zoo`` for packages, hubs and the cache.

`repzoo.cli` imports only the module of the command that is called.
"""
