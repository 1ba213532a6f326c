"""The model card of a package."""

from repzoo_training.export.card.contents import AddedDecoder, Embeddings, TrainingRecord
from repzoo_training.export.card.render import render_card, write_card

__all__ = ["AddedDecoder", "Embeddings", "TrainingRecord", "render_card", "write_card"]
