"""Turn a trained run into a model package, and re-render the card of a package."""

from __future__ import annotations

from repzoo_training.export.package import export_run

__all__ = ["export_run"]
