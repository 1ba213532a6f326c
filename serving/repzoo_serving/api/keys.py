"""API keys: a file of hashes, and whose key it is that a caller shows.

A key is ``rz_ID_SECRET``. The file has a line for each, and never the secret itself:

    # ID  SHA-256 OF THE KEY  NAME  [rate=REQUESTS A SECOND]  [burst=REQUESTS AT ONCE]
    4f9d02ac61b3 9b1c...e0 photo-app rate=50 burst=100

``zoo serve --keys FILE --new-key NAME`` makes one; deleting its line revokes it, without a restart.
A plain SHA-256 is enough here, where it would not be for passwords: a secret has 256 random bits,
and nobody can try them out. The ID only says which line to compare with, which takes the same time
whatever the secret.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from repzoo.errors import InvalidInput

__all__ = ["Key", "KeyFile", "new_key"]

_logger = logging.getLogger("repzoo_serving")

_KEY = re.compile(r"rz_([0-9a-f]{12})_[A-Za-z0-9_-]{43}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)

#: The file is looked at again after so many seconds, when a request comes.
_LOOK_SECONDS = 1.0

#: Compared with when there is no such key, so that this takes as long.
_NO_DIGEST = bytes(32)


@dataclass(frozen=True)
class Key:
    """One line of the file. ``rate`` is None where the server's default goes."""

    name: str
    digest: bytes
    rate: float | None = None
    burst: float | None = None


class KeyFile:
    """The keys of a file, read again when it changes.

    A file that cannot be read any more changes nothing, but an error is logged: whoever is locked
    out by a typing error cannot be told from whoever should be.

    Raises:
        InvalidInput: naming the line, if the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._looked = time.monotonic()
        self._stamp = self._stat()
        self._keys = _read(path)

    def find(self, text: str) -> Key | None:
        """The key that ``text`` is, if it is one."""
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self.refresh()
        found = _KEY.fullmatch(text)
        key = self._keys.get(found[1]) if found else None
        digest = hashlib.sha256(text.encode()).digest()
        same = hmac.compare_digest(digest, key.digest if key is not None else _NO_DIGEST)
        return key if same else None

    def refresh(self) -> None:
        """Read the file again if it has changed."""
        self._looked = time.monotonic()
        try:
            stamp = self._stat()
            if stamp != self._stamp:
                self._keys = _read(self._path)
                self._stamp = stamp
        except InvalidInput as error:
            _logger.error("%s; the keys stay as they were", error)

    def _stat(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError as error:
            raise InvalidInput(f"{self._path}: {error.strerror}") from None
        return found.st_mtime_ns, found.st_size, found.st_ino


def new_key(path: Path, name: str, *, rate: float | None = None) -> str:
    """Make a key, add its line to the file, which is made if it is not there, and return it.

    Raises:
        InvalidInput: if the name cannot be used or is taken, or the file cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} cannot name a key: use letters, digits and . _ @ -")
    if path.exists() and name in {key.name for key in _read(path).values()}:
        raise InvalidInput(f"{path} has a key called {name}")
    identity = secrets.token_hex(6)
    key = f"rz_{identity}_{secrets.token_urlsafe(32)}"
    words = [identity, hashlib.sha256(key.encode()).hexdigest(), name]
    if rate is not None:
        words.append(f"rate={rate:g}")
    try:
        # Appended in one write: two who add keys at once harm nothing.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write((" ".join(words) + "\n").encode())
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from None
    return key


def _read(path: Path) -> dict[str, Key]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    keys: dict[str, Key] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            identity, key = _parse(words)
            if identity in keys:
                raise ValueError(f"the ID {identity} is there twice")
        except ValueError as error:
            raise InvalidInput(f"{path} line {number}: {error}") from None
        keys[identity] = key
    return keys


def _parse(words: list[str]) -> tuple[str, Key]:
    if len(words) < 3:
        raise ValueError("expected an ID, a SHA-256 and a name")
    identity, digest, name, *options = words
    if not re.fullmatch(r"[0-9a-f]{12}", identity, re.ASCII) or not _DIGEST.fullmatch(digest):
        raise ValueError("expected an ID of 12 and a SHA-256 of 64 hexadecimal digits")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a key")
    numbers: dict[str, float] = {}
    for option in options:
        word, _, text = option.partition("=")
        value = float(text)
        if word not in ("rate", "burst") or not 0 < value < float("inf"):
            raise ValueError(f"{option!r}: expected rate= or burst= and a number above 0")
        numbers[word] = value
    return identity, Key(name, bytes.fromhex(digest), **numbers)
