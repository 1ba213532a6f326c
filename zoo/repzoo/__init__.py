"""repzoo: a zoo of pretrained image encoders that know how sure they are.

    >>> import repzoo
    >>> encoder = repzoo.load("simvae-mnist")
    >>> encoder.posterior("digit.png").variance.shape
    (1, 10)

Importing this package loads neither ONNX Runtime nor Pillow. Names are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repzoo.errors import (
        AccessDenied,
        GoldenMismatch,
        HubError,
        HubUnavailable,
        ImageTooLarge,
        IntegrityError,
        InvalidImage,
        InvalidInput,
        MissingExtra,
        ModelNotFound,
        NoSpace,
        Offline,
        PackageError,
        RepzooError,
        RevisionChanged,
        SignatureError,
        UnknownTask,
        UnsupportedOperation,
    )
    from repzoo.loading import load
    from repzoo.packages.config import InputSpec, ModelConfig
    from repzoo.packages.package import Package
    from repzoo.runtime.encoder import Encoder, Generation, Posterior, Predictions, Reconstruction

    __version__: str

__all__ = [
    "AccessDenied",
    "Encoder",
    "Generation",
    "GoldenMismatch",
    "HubError",
    "HubUnavailable",
    "ImageTooLarge",
    "InputSpec",
    "IntegrityError",
    "InvalidImage",
    "InvalidInput",
    "MissingExtra",
    "ModelConfig",
    "ModelNotFound",
    "NoSpace",
    "Offline",
    "Package",
    "PackageError",
    "Posterior",
    "Predictions",
    "Reconstruction",
    "RepzooError",
    "RevisionChanged",
    "SignatureError",
    "UnknownTask",
    "UnsupportedOperation",
    "__version__",
    "load",
]

#: The module of each name; names that are not listed here are in ``repzoo.errors``.
_MODULES = {
    "Encoder": "runtime.encoder",
    "Generation": "runtime.encoder",
    "InputSpec": "packages.config",
    "ModelConfig": "packages.config",
    "Package": "packages.package",
    "Posterior": "runtime.encoder",
    "Predictions": "runtime.encoder",
    "Reconstruction": "runtime.encoder",
    "load": "loading",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("repzoo")
    elif name in __all__:
        module = importlib.import_module(f"repzoo.{_MODULES.get(name, 'errors')}")
        value = getattr(module, name)
    else:
        raise AttributeError(f"module 'repzoo' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
