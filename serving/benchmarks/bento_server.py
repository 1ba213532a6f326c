"""A reference for our server: BentoML's own API, with Pillow.

PHOTOS_MODEL=simclr-celeba bentoml serve bento_server:Embed --port 8003
"""

from __future__ import annotations

import os
from typing import Any

import bentoml
import repzoo
from PIL.Image import Image
from work import fitted, work


@bentoml.service(workers=1, threads=os.cpu_count() or 1)
class Embed:
    def __init__(self) -> None:
        self.encoder = repzoo.load(os.environ["PHOTOS_MODEL"])

    @bentoml.api(route="/embed")
    def embed(self, images: Image) -> dict[str, Any]:
        pixels = fitted(images, self.encoder.config.input)
        return work(self.encoder, pixels[None])[0]
