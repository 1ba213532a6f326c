"""The subcommands of ``zoo`` that deal with packages, hubs and the cache, a file each."""

from repzoo.commands.cached import path, rm
from repzoo.commands.hub import hub
from repzoo.commands.listing import info, list_
from repzoo.commands.publishing import publish
from repzoo.commands.pulling import pull
from repzoo.commands.verifying import verify

__all__ = ["hub", "info", "list_", "path", "publish", "pull", "rm", "verify"]
