"""The subcommands of ``zoo`` that deal with packages, hubs and the cache, a file each.

`repzoo.cli` imports the one that is called.
"""
