"""Files of bearer secrets: API keys of `zoo serve` and tokens of `zoo hub serve`.

A file holds the SHA-256 of each secret, never the secret itself. A plain hash is enough because a
secret has 256 random bits: nobody can guess it. Each secret has one line::

    # SHA-256  NAME  [role=read|write]  [rate=REQUESTS PER SECOND]  [burst=REQUESTS]  [created=TIME]
    9b1c...e0 photo-app rate=50 burst=100 created=2026-11-28T09:30:00+00:00
    77ab...41 ci role=write created=2026-11-28T09:31:00+00:00

Two older formats can be read, too: lines that begin with a 12-digit ID, and JSON with a list of
``tokens``. Adding or revoking a secret keeps other lines as they are, and turns JSON into lines.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from repzoo.errors import InvalidInput
from repzoo.files import locked, write_atomically

__all__ = ["Role", "Secret", "SecretFile", "add_secret", "read_secrets", "revoke_secret"]

Role = Literal["read", "write"]

_NAME = re.compile(r"[A-Za-z0-9._@-]{1,96}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_OLD_ID = re.compile(r"[0-9a-f]{12}", re.ASCII)
_MAX_BYTES = 2**22
_HEADER = "# SHA-256  NAME  [role=read|write]  [rate=PER SECOND]  [burst=AT ONCE]  [created=TIME]"


@dataclass(frozen=True)
class Secret:
    """What a file says about one secret. A field is None if the file does not say."""

    name: str
    sha256: str
    role: Role | None = None
    #: Requests per second.
    rate: float | None = None
    #: Requests that may arrive at once.
    burst: float | None = None
    created: datetime | None = None

    def __str__(self) -> str:
        """Return the line of this secret."""
        words = [self.sha256, self.name]
        words += [f"role={self.role}"] if self.role is not None else []
        words += [f"rate={self.rate:g}"] if self.rate is not None else []
        words += [f"burst={self.burst:g}"] if self.burst is not None else []
        words += [f"created={self.created.isoformat()}"] if self.created is not None else []
        return " ".join(words)


class SecretFile:
    """The secrets of a file, which is read again when it changes.

    If the file becomes unreadable or invalid, the secrets stay as they were and an error is logged:
    a typo must not lock everyone out.

    Args:
        path: The file.
        check_seconds: Minimum time between two checks for secrets that were revoked or changed; 0
            checks on every call.

    Raises:
        InvalidInput: If the file cannot be used; the message names the line.
    """

    def __init__(self, path: Path, *, check_seconds: float = 0.0) -> None:
        self.path = path
        self._check_seconds = check_seconds
        self._stamp: tuple[int, int, int, int] | None = None
        self._complaint = ""
        self._load()

    def find(self, secret: str) -> Secret | None:
        """Return the entry of a secret, or None if the file does not have it."""
        # A lookup by hash takes the same time whether or not a guess was close.
        hashed = _hash(secret)
        due = time.monotonic() - self._checked >= self._check_seconds
        # A new secret works at once: it costs no more than a stat to see that the file is the same.
        if due or hashed not in self._by_hash:
            self._reload()
        return self._by_hash.get(hashed)

    def _reload(self) -> None:
        try:
            self._load()
        except InvalidInput as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                logging.getLogger("repzoo").error("%s; the secrets stay as they were", error)

    def _load(self) -> None:
        self._checked = time.monotonic()
        try:
            now = self.path.stat()
        except OSError as error:
            raise InvalidInput(f"{self.path}: {error.strerror}") from None
        stamp = (now.st_ino, now.st_mtime_ns, now.st_ctime_ns, now.st_size)
        if stamp != self._stamp:
            self._by_hash = {each.sha256: each for each in read_secrets(self.path)}
            self._stamp = stamp
        self._complaint = ""


def read_secrets(path: Path) -> tuple[Secret, ...]:
    """Return the secrets of a file, in its order.

    Raises:
        InvalidInput: If the file cannot be read or is not valid; the message names the line.
    """
    return _parse(path, _read_lines(path))


def add_secret(
    path: Path,
    name: str,
    *,
    prefix: str,
    role: Role | None = None,
    rate: float | None = None,
    burst: float | None = None,
) -> str:
    """Make a secret and add it to a file, which is created if it does not exist.

    Args:
        path: The file.
        name: The owner or purpose of the secret; unique in the file.
        prefix: What the secret begins with, such as ``zoo_``.
        role: What its owner may do on a hub.
        rate: Requests per second that a server grants its owner.
        burst: Requests that its owner may send at once.

    Returns:
        The secret. It is not stored anywhere.

    Raises:
        InvalidInput: If the name is taken or not valid, or the file cannot be read or written.
    """
    secret = prefix + secrets.token_urlsafe(32)
    now = datetime.now(UTC).replace(microsecond=0)
    line = str(Secret(name, _hash(secret), role, rate, burst, now))
    try:
        _check_name(name)
        _parse_line(line)
    except ValueError as error:
        raise InvalidInput(str(error)) from None
    with _editing(path, new=True) as lines:
        if any(each.name == name for each in _parse(path, lines)):
            raise InvalidInput(f"{path} already has a secret named {name}; revoke it first")
        lines.append(line)
    return secret


def revoke_secret(path: Path, name: str) -> None:
    """Remove a secret from a file. Running servers refuse it from then on.

    Raises:
        InvalidInput: If the file has no such secret, or cannot be read or written.
    """
    with _editing(path) as lines:
        if all(each.name != name for each in _parse(path, lines)):
            raise InvalidInput(f"{path} has no secret named {name!a}")
        lines[:] = [line for line in lines if not _is_entry(line) or _parse_line(line).name != name]


@contextmanager
def _editing(path: Path, *, new: bool = False) -> Iterator[list[str]]:
    """Yield the lines of a file for editing, then replace the file with them."""
    path = path.resolve()
    if path.is_dir() or not (new or path.exists()):
        raise InvalidInput(f"{path} is a folder" if path.is_dir() else f"{path} does not exist")
    try:
        with locked(path.with_name(f".{path.name}.lock"), f"it changes {path}"):
            before = path.stat() if path.exists() or not new else None
            lines = _read_lines(path) if before is not None else [_HEADER]
            yield lines
            mode = 0o600 if before is None else before.st_mode & 0o770
            write_atomically(path, "".join(f"{line}\n" for line in lines).encode(), mode=mode)
            if before is not None:
                with suppress(PermissionError):  # only root may keep another owner
                    os.chown(path, before.st_uid, before.st_gid)
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from None


def _read_lines(path: Path) -> list[str]:
    """Return the lines of a file; JSON is converted to lines."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1).decode("utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not a file of secrets: {error}") from None
    if len(text) > _MAX_BYTES:
        raise InvalidInput(f"{path} is not a file of secrets: more than {_MAX_BYTES} bytes")
    if not text.lstrip().startswith("{"):
        return text.splitlines()
    try:
        tokens = json.loads(text)["tokens"]
        return [
            _HEADER,
            *(f"{t['sha256']} {t['name']} role={t['role']} created={t['created']}" for t in tokens),
        ]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} is not a file of secrets: {error!r}") from None


def _parse(path: Path, lines: list[str]) -> tuple[Secret, ...]:
    found: dict[str, Secret] = {}
    for number, line in enumerate(lines, 1):
        if _is_entry(line):
            try:
                secret = _parse_line(line)
                if secret.sha256 in found:
                    raise ValueError(f"the same secret as {found[secret.sha256].name}")
            except ValueError as error:
                raise InvalidInput(f"{path} line {number}: {error}") from None
            found[secret.sha256] = secret
    return tuple(found.values())


def _is_entry(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _parse_line(line: str) -> Secret:
    """Parse an entry. Raises ValueError if it is not valid."""
    words = line.split()
    if len(words) > 1 and _OLD_ID.fullmatch(words[0]):
        words = words[1:]
    if len(words) < 2 or not _SHA256.fullmatch(words[0]):
        raise ValueError("expected a SHA-256 of 64 hexadecimal digits and a name")
    sha256, name, *options = words
    _check_name(name)
    values: dict[str, Any] = {}
    for option in options:
        word, _, text = option.partition("=")
        try:
            if word in values:
                raise ValueError
            values[word] = _PARSERS[word](text)
        except (KeyError, ValueError):
            raise ValueError(
                f"{option[:80]!a}: expected role=read|write, rate= or burst= and a number above 0, "
                "or created=TIME"
            ) from None
    return Secret(name, sha256, **values)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!a} cannot name a secret; use 1 to 96 of A-Z a-z 0-9 . _ @ -")


def _parse_number(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError
    return value


_PARSERS: dict[str, Callable[[str], Any]] = {
    "role": {"read": "read", "write": "write"}.__getitem__,
    "rate": _parse_number,
    "burst": _parse_number,
    "created": datetime.fromisoformat,
}


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
