"""The exceptions of repzoo.

    RepzooError
    ├── InvalidInput          (ValueError)        an argument is not valid
    │   └── InvalidImage                          one image is not valid; ``index``
    │       └── ImageTooLarge                     the image exceeds the pixel limit
    ├── UnsupportedOperation  (TypeError)         the model has no posterior, decoder, ...
    ├── UnknownTask           (LookupError)       the model has no such probe
    ├── PackageError          (ValueError)        a folder is not a valid model package
    │   ├── IntegrityError                        files differ from the manifest; ``files``
    │   │   └── RevisionChanged                   a tag or commit changed since the first pull
    │   ├── SignatureError                        the package is not signed with this key
    │   └── GoldenMismatch                        the model does not reproduce its golden outputs
    ├── ModelNotFound         (LookupError)       the hub has no such package or revision
    ├── HubError              (OSError)           a hub cannot be read or written
    │   ├── HubUnavailable    (ConnectionError)   network error, HTTP 429 or 5xx; ``retry_after``
    │   │   └── Offline                           offline mode forbids network access
    │   ├── AccessDenied      (PermissionError)   the hub requires a token, or another token
    │   ├── Conflict                              the hub changed while it was being written
    │   ├── EntryNotFound                         the revision has no such file
    │   └── UploadTooLarge                        the upload exceeds its announced size or a limit
    ├── NoSpace               (OSError)           the disk does not have room for a download
    └── MissingExtra          (ImportError)       an optional dependency is not installed

Each also inherits the matching builtin, so ordinary clauses such as ``except ValueError`` work.
"""

from __future__ import annotations

import errno
from typing import Any, Self

__all__ = [
    "AccessDenied",
    "Conflict",
    "EntryNotFound",
    "GoldenMismatch",
    "HubError",
    "HubUnavailable",
    "ImageTooLarge",
    "IntegrityError",
    "InvalidImage",
    "InvalidInput",
    "MissingExtra",
    "ModelNotFound",
    "NoSpace",
    "Offline",
    "PackageError",
    "RepzooError",
    "RevisionChanged",
    "SignatureError",
    "UnknownTask",
    "UnsupportedOperation",
    "UploadTooLarge",
]


class RepzooError(Exception):
    """Base class of all exceptions that repzoo raises on purpose."""


class InvalidInput(RepzooError, ValueError):
    """An argument is not valid. The message says what was found and what was expected."""


class InvalidImage(InvalidInput):
    """One image cannot be decoded or used.

    ``index`` is its position in the request, and ``path`` its file, if it was given as a path.
    """

    def __init__(self, message: str, index: int = 0, path: str | None = None) -> None:
        place = "" if path is None else f" ({path})"
        super().__init__(f"image {index}{place}: {message}")
        self.index = index
        self.path = path
        self.detail = message

    def at(self, index: int, path: str | None = None) -> Self:
        """Return the same error about the image at another position."""
        kind, (message, _, _, *more) = self.__reduce__()
        moved: Self = kind(message, index, path, *more)
        return moved

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return type(self), (self.detail, self.index, self.path)


class ImageTooLarge(InvalidImage):
    """One image has more pixels than the limit. It was not decoded.

    ``limit`` is the limit that it exceeds, in pixels.
    """

    def __init__(
        self, message: str, index: int = 0, path: str | None = None, limit: int | None = None
    ) -> None:
        super().__init__(message, index, path)
        self.limit = limit

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return type(self), (self.detail, self.index, self.path, self.limit)


class UnsupportedOperation(RepzooError, TypeError):
    """The model lacks a part that the operation needs, such as a posterior or a decoder."""


class UnknownTask(RepzooError, LookupError):
    """The model has no probe for this task and kind."""


class PackageError(RepzooError, ValueError):
    """A folder is not a valid model package."""


class IntegrityError(PackageError):
    """Files are missing, added, or differ from the manifest. ``files`` names them."""

    def __init__(self, message: str, files: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.files = files


class RevisionChanged(IntegrityError):
    """A tag or commit of a hub has another manifest than when it was first pulled."""


class SignatureError(PackageError):
    """A package is not signed, or its signature is not valid for this key and content."""


class GoldenMismatch(PackageError):
    """A model does not reproduce its golden outputs on this machine."""


class ModelNotFound(RepzooError, LookupError):
    """The hub has no package of this name, or not this revision of it."""


class HubError(RepzooError, OSError):
    """A hub cannot be read or written."""


class HubUnavailable(HubError, ConnectionError):
    """A hub cannot be reached or is overloaded. A later attempt may succeed.

    ``retry_after`` is the delay in seconds that the hub asked for, or None.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Offline(HubUnavailable):
    """A hub was not contacted, because this process is in offline mode."""


class AccessDenied(HubError, PermissionError):
    """A hub requires a token, or one with more permissions."""


class Conflict(HubError):
    """The hub changed while it was being written: a branch moved or a tag is taken."""


class EntryNotFound(HubError):
    """A revision of a repository has no file at this path."""


class UploadTooLarge(HubError):
    """An upload has more bytes than announced, or than the hub accepts."""


class NoSpace(RepzooError, OSError):
    """The disk does not have room for a download. Files that were already fetched are kept."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.ENOSPC


class MissingExtra(RepzooError, ImportError):
    """An optional dependency is not installed. The message names the extra to install."""

    def __init__(self, what: str, extra: str, cause: ImportError | None = None) -> None:
        missing = f" ({cause.name} is not installed)" if cause is not None and cause.name else ""
        super().__init__(
            f"{what} needs the {extra!r} extra{missing}: pip install 'repzoo[{extra}]'"
        )
        self.extra = extra

    def __reduce__(self) -> Any:
        # An error that cannot be unpickled would leave a multiprocessing.Pool waiting forever.
        return _missing_extra, (str(self), self.extra)


def _missing_extra(message: str, extra: str) -> MissingExtra:
    error = MissingExtra.__new__(MissingExtra, message)
    error.msg, error.args, error.extra = message, (message,), extra
    return error
