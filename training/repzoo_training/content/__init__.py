"""The content posterior: where the embedding of an undegraded picture of the same content lies."""

from __future__ import annotations

from repzoo_training.content.fitting import FittedContent, fit_content
from repzoo_training.content.posterior import ContentHead

__all__ = ["ContentHead", "FittedContent", "fit_content"]
