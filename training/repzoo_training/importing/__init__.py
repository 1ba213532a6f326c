"""Make a package of an encoder from elsewhere: an ONNX file, timm, torchvision or torch.export."""

from __future__ import annotations

from repzoo_training.importing.package import import_encoder

__all__ = ["import_encoder"]
