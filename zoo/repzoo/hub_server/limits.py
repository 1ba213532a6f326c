"""Size and time limits of requests. Larger ones are refused, or cut off while they arrive."""

from __future__ import annotations

__all__ = [
    "CARD_BYTES",
    "COMMIT_BYTES",
    "BYTES_PER_SECOND",
    "FILE_BYTES",
    "IDLE_SECONDS",
    "JSON_BYTES",
    "LINE_BYTES",
    "PAGE_ITEMS",
    "REGULAR_BYTES",
    "UPLOAD_SECONDS",
]

MIB = 2**20

#: The body of a JSON request.
JSON_BYTES = 4 * MIB

#: Files up to this size may be part of a commit, as base64. This needs no second request, and
#: clients with Xet have no other way. Larger files are uploaded through LFS.
REGULAR_BYTES = 10 * MIB

#: One line of a commit, which holds one such file: base64 needs 4 bytes for 3.
LINE_BYTES = REGULAR_BYTES * 4 // 3 + 8192

#: All lines of a commit.
COMMIT_BYTES = 1024 * MIB

#: A file that is uploaded through LFS.
FILE_BYTES = 64 * 1024 * MIB

#: How long a body may stall.
IDLE_SECONDS = 60.0

#: After this time, a body must have arrived at this rate on average.
BYTES_PER_SECOND = 1024

#: How long an upload URL is valid: the upload must begin in this time.
UPLOAD_SECONDS = 3600

#: Entries of a listing in one response; a link leads to the next ones.
PAGE_ITEMS = 1000

#: Bytes of a card or config that is read to be shown.
CARD_BYTES = MIB
