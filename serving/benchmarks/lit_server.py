"""A reference for our server: LitServe, with batching as in its documentation.

    python serving/benchmarks/lit_server.py simvae-mnist 8002

It takes base64 in JSON, or a file in a form, which it decodes with Pillow alone.
"""

from __future__ import annotations

import base64
import io
import sys
from typing import Any

import litserve
import numpy as np
import repzoo
from PIL import Image
from repzoo.runtime.images import as_pixels
from work import fitted, work


class Embed(litserve.LitAPI):  # type: ignore[misc]
    def __init__(self, model: str) -> None:
        super().__init__(max_batch_size=256, batch_timeout=0.001, api_path="/embed")
        self.model = model

    def setup(self, device: str) -> None:
        self.encoder = repzoo.load(self.model)

    # Without annotations, LitServe passes the body as a dictionary.
    def decode_request(self, request):  # type: ignore[no-untyped-def]
        if not isinstance(request, dict):
            data = request["images"].file.read()
            return fitted(Image.open(io.BytesIO(data)), self.encoder.config.input)
        files = [base64.b64decode(text) for text in request["images"]]
        return as_pixels(files, self.encoder.config.input)[0]

    def batch(self, inputs: list[Any]) -> Any:
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        return work(self.encoder, x)

    def unbatch(self, output: Any) -> Any:
        return output

    def encode_response(self, output: Any) -> Any:
        return output


if __name__ == "__main__":
    server = litserve.LitServer(Embed(sys.argv[1]), accelerator="cpu", workers_per_device=1)
    port = int(sys.argv[2])
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False)
