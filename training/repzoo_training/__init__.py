"""Training of repzoo's encoders: from images to an evaluated and exported model package.

Start reading at :func:`repzoo_training.loop.trainer.train`. The equations are in
:mod:`repzoo_training.objectives`, and the built-in recipes in :mod:`repzoo_training.recipes`.
"""

from __future__ import annotations

from typing import Any

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # On first use: torch takes seconds to import, and the commands import this package.
    if name == "load":
        from repzoo_training.pretrained.loading import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
