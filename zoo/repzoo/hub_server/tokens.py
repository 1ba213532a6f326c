"""The file of tokens: sha256 of each, never the token itself.

A token is 256 random bits, so a fast hash is enough: there is nothing to guess. A server reads the
file again when it has changed, so a token that is revoked is worth nothing from then on.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from repzoo.errors import HubError, InvalidInput
from repzoo.files import locked, open_regular, write_atomically
from repzoo.packages.config import NAME_PATTERN

__all__ = ["Role", "Token", "TokenFile"]

Role = Literal["read", "write"]

_MAX_BYTES = 2**22


class Token(BaseModel):
    """What the file says of one token."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: whose it is, or what for.
    name: str = Field(pattern=NAME_PATTERN)
    role: Role
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    created: datetime


class _Content(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: tuple[Token, ...] = ()


class TokenFile:
    """A file of tokens. Methods raise `HubError` if it cannot be read or written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: tuple[Token, ...] = ()
        self._state: tuple[int, int, int] | None = None

    def tokens(self) -> tuple[Token, ...]:
        """All tokens, in the order of their making."""
        try:
            with open_regular(self.path) as file:
                found = os.fstat(file.fileno())
                state = (found.st_ino, found.st_mtime_ns, found.st_size)
                if state != self._state:
                    self._read = _Content.model_validate_json(file.read(_MAX_BYTES)).tokens
                    self._state = state
        except OSError as error:
            raise HubError(f"{self.path}: {error.strerror}") from error
        except ValidationError as error:
            raise HubError(f"{self.path} is not a file of tokens: {error}") from error
        return self._read

    def find(self, secret: str) -> Token | None:
        """The token that ``secret`` is, or None; the time that it takes gives nothing away."""
        digest = hashlib.sha256(secret.encode(errors="replace")).hexdigest()
        found = None
        for token in self.tokens():
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found

    def add(self, name: str, role: Role) -> str:
        """Make a token, and the file if it is not there.

        Returns:
            The token; it is written down nowhere.

        Raises:
            InvalidInput: if there is one of that name, or it cannot be a name.
        """
        secret = f"zoo_{secrets.token_urlsafe(32)}"
        digest = hashlib.sha256(secret.encode()).hexdigest()
        try:
            token = Token(name=name, role=role, sha256=digest, created=datetime.now(UTC))
        except ValidationError:
            raise InvalidInput(
                f"{name!a} cannot name a token: lower-case letters, digits and . _ -"
            ) from None
        with self._locked():
            tokens = self.tokens() if self.path.exists() else ()
            if any(each.name == name for each in tokens):
                raise InvalidInput(f"{self.path} has a token {name} already")
            self._write((*tokens, token))
        return secret

    def revoke(self, name: str) -> None:
        """Take a token out.

        Raises:
            InvalidInput: if there is none of that name.
        """
        with self._locked():
            tokens = self.tokens()
            rest = tuple(each for each in tokens if each.name != name)
            if len(rest) == len(tokens):
                raise InvalidInput(f"{self.path} has no token {name!a}")
            self._write(rest)

    def _locked(self) -> AbstractContextManager[None]:
        lock = self.path.with_name(f".{self.path.name}.lock")
        return locked(lock, f"it changes {self.path}")

    def _write(self, tokens: tuple[Token, ...]) -> None:
        data = _Content(tokens=tokens).model_dump_json(indent=2).encode() + b"\n"
        before = os.umask(0o077)
        try:
            write_atomically(self.path, data)
        finally:
            os.umask(before)
