"""From a trained run to a model package."""

from __future__ import annotations

from repzoo_training.export.package import export_run

__all__ = ["export_run"]
