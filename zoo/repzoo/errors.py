"""Every error that repzoo raises on purpose.

    RepzooError
    ├── InvalidInput          (ValueError)        an argument that cannot be used as it is
    │   └── InvalidImage                          one image of a request, with its ``index``
    │       └── ImageTooLarge                     it has more pixels than the limit
    ├── UnsupportedOperation  (TypeError)         the model has no posterior, decoder, ...
    ├── UnknownTask           (LookupError)       the model has no such probe
    ├── PackageError          (ValueError)        a folder that is not a valid model package
    │   ├── IntegrityError                        a file's size or sha256 is not the manifest's
    │   └── GoldenMismatch                        a model that does not give its golden outputs
    ├── ModelNotFound         (LookupError)       no package of that name (or revision) in the hub
    ├── HubError              (OSError)           a hub that cannot be read or written
    └── MissingExtra          (ImportError)       an optional dependency is not installed

Each also is the builtin error that fits it, so ordinary ``except ValueError`` works.
"""

from __future__ import annotations

__all__ = [
    "GoldenMismatch",
    "HubError",
    "ImageTooLarge",
    "IntegrityError",
    "InvalidImage",
    "InvalidInput",
    "MissingExtra",
    "ModelNotFound",
    "PackageError",
    "RepzooError",
    "UnknownTask",
    "UnsupportedOperation",
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


class GoldenMismatch(PackageError):
    """A model does not give its golden outputs on this machine's provider."""


class ModelNotFound(RepzooError, LookupError):
    """The hub has no package of that name, or not that revision of it."""


class HubError(RepzooError, OSError):
    """A hub cannot be read or written."""


class MissingExtra(RepzooError, ImportError):
    """An optional dependency is missing; the message names the extra to install."""

    def __init__(self, what: str, extra: str, cause: ImportError | None = None) -> None:
        missing = f" ({cause.name} is not installed)" if cause is not None and cause.name else ""
        super().__init__(
            f"{what} needs the {extra!r} extra{missing}: pip install 'repzoo[{extra}]'"
        )
        self.extra = extra
