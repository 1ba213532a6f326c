"""How much of anything one request may bring. What is more is refused, or cut while it arrives."""

from __future__ import annotations

__all__ = [
    "CARD_BYTES",
    "COMMIT_BYTES",
    "FILE_BYTES",
    "IDLE_SECONDS",
    "JSON_BYTES",
    "LINE_BYTES",
    "PAGE_ITEMS",
    "REGULAR_BYTES",
    "UPLOAD_SECONDS",
]

MIB = 2**20

#: body of a request that is one JSON object.
JSON_BYTES = 4 * MIB

#: files up to this size may come inside a commit, as base64. That needs no second request, and it
#: is the only way that does not go through Xet in a client that has it. Larger ones come as LFS.
REGULAR_BYTES = 10 * MIB

#: a line of a commit, which holds one such file: base64 takes 4 bytes for 3.
LINE_BYTES = REGULAR_BYTES * 4 // 3 + 8192

#: all lines of a commit.
COMMIT_BYTES = 1024 * MIB

#: a file that comes as LFS.
FILE_BYTES = 64 * 1024 * MIB

#: for how long a body may stand still.
IDLE_SECONDS = 60.0

#: for how long the address for the bytes of an LFS file is valid: they must have begun by then.
UPLOAD_SECONDS = 3600

#: entries of a listing in one answer; the next ones are behind its link.
PAGE_ITEMS = 1000

#: a card, or a config, that is read to show something of it.
CARD_BYTES = MIB
