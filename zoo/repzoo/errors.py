"""Every error that repzoo raises on purpose.

    RepzooError
    ├── InvalidInput          (ValueError)        an argument that cannot be used as it is
    │   └── InvalidImage                          one image of a request, with its ``index``
    │       └── ImageTooLarge                     it has more pixels than the limit
    ├── UnsupportedOperation  (TypeError)         the model has no posterior, decoder, ...
    ├── UnknownTask           (LookupError)       the model has no such probe
    ├── PackageError          (ValueError)        a folder that is not a valid model package
    │   ├── IntegrityError                        a file's size or sha256 is not the manifest's
    │   │   └── RevisionChanged                   a tag or commit that means something else by now
    │   ├── SignatureError                        not signed, by another key, or not as it was
    │   └── GoldenMismatch                        a model that does not give its golden outputs
    ├── ModelNotFound         (LookupError)       no package of that name (or revision) in the hub
    ├── HubError              (OSError)           a hub that cannot be read or written
    │   ├── HubUnavailable                        not now: network, 429, 5xx; ``retry_after``
    │   │   └── Offline                           this process is not to use the network
    │   ├── AccessDenied      (PermissionError)   it wants a token, or another one
    │   ├── Conflict                              somebody else has changed what a writer builds on
    │   ├── EntryNotFound                         a revision has no such file
    │   └── UploadTooLarge                        more bytes than were announced, or are allowed
    ├── NoSpace               (OSError)           the disk is too full for what is to be fetched
    └── MissingExtra          (ImportError)       an optional dependency is not installed

Each also is the builtin error that fits it, so ordinary ``except ValueError`` works.
"""

from __future__ import annotations

import errno

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
    """Base of all errors that repzoo raises on purpose."""


class InvalidInput(RepzooError, ValueError):
    """An argument cannot be used as it is; the message says what was found and expected."""


class InvalidImage(InvalidInput):
    """One image cannot be decoded or does not fit; ``index`` is its place in the request."""

    def __init__(self, message: str, index: int = 0) -> None:
        super().__init__(f"image {index}: {message}")
        self.index = index
        self.detail = message


class ImageTooLarge(InvalidImage):
    """One image has more pixels than the limit; it was not decoded."""


class UnsupportedOperation(RepzooError, TypeError):
    """The model lacks what the operation needs, for example a posterior or a decoder."""


class UnknownTask(RepzooError, LookupError):
    """The model has no probe for that task and kind."""


class PackageError(RepzooError, ValueError):
    """A folder is not a valid model package."""


class IntegrityError(PackageError):
    """Files are missing, added, or differ from the manifest; ``files`` names them."""

    def __init__(self, message: str, files: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.files = files


class RevisionChanged(IntegrityError):
    """A tag or a commit of a hub has another manifest than when it was first pulled from there."""


class SignatureError(PackageError):
    """A package is not signed, or its signature is not one of this key over this content."""


class GoldenMismatch(PackageError):
    """A model does not give its golden outputs on this machine's provider."""


class ModelNotFound(RepzooError, LookupError):
    """The hub has no package of that name, or not that revision of it."""


class HubError(RepzooError, OSError):
    """A hub cannot be read or written."""


class HubUnavailable(HubError):
    """A hub cannot be reached or is too busy, which may pass.

    ``retry_after`` is how many seconds the hub asks to be left alone for; None if it says nothing.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Offline(HubUnavailable):
    """A hub was not asked, because this process is not to use the network."""


class AccessDenied(HubError, PermissionError):
    """A hub wants a token, or one that is allowed to do this."""


class Conflict(HubError):
    """Somebody else has changed what a writer builds on: a moved branch, a tag that is taken."""


class EntryNotFound(HubError):
    """A revision of a repository has no file of that path."""


class UploadTooLarge(HubError):
    """A file has more bytes than were announced, or than a hub takes."""


class NoSpace(RepzooError, OSError):
    """The disk is too full for what is to be fetched; what was fetched already is kept."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.ENOSPC


class MissingExtra(RepzooError, ImportError):
    """An optional dependency is missing; the message names the extra to install."""

    def __init__(self, what: str, extra: str, cause: ImportError | None = None) -> None:
        missing = f" ({cause.name} is not installed)" if cause is not None and cause.name else ""
        super().__init__(
            f"{what} needs the {extra!r} extra{missing}: pip install 'repzoo[{extra}]'"
        )
        self.extra = extra
