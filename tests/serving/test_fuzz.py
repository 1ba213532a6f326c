"""Bodies mutated at random: what parses them gives a request or a problem, and nothing else."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from repzoo_serving import requests
from repzoo_serving.problems import Problem

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[0, :, :, 0]).save(buffer, "PNG")
    return buffer.getvalue()


BODIES = {
    "application/json": json.dumps(
        {"model": "tiny", "normalize": True, "images": [base64.b64encode(png()).decode()] * 2}
    ).encode(),
    "multipart/form-data; boundary=b": (
        b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n'
        b'--b\r\nContent-Disposition: form-data; name="images"; filename="x.png"\r\n'
        b"Content-Type: image/png\r\n\r\n" + png() + b"\r\n--b--\r\n"
    ),
    "application/x-safetensors": safetensors.numpy.save(
        {"images": PIXELS}, {"request": '{"model": "tiny", "normalize": true}'}
    ),
}


def mutations(body: bytes, count: int) -> Iterator[bytes]:
    rng = np.random.default_rng(len(body))
    for _ in range(count):
        data = bytearray(body)
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(0, len(data)))
            match rng.integers(0, 4):
                case 0:
                    data[place] = rng.integers(0, 256)
                case 1:
                    del data[place : place + int(rng.integers(1, 20))]
                case 2:
                    data[place:place] = data[: int(rng.integers(1, 20))]
                case _:
                    data[place] ^= 1 << int(rng.integers(0, 8))
            if not data:
                break
        yield bytes(data)


def outcome(body: bytes, content_type: str) -> int:
    """The status of the problem, or 200."""
    kind = content_type.encode()
    try:
        requests.parse(body, kind, requests.EmbedOptions, "images", max_items=8)
    except Problem as problem:
        return problem.status
    return 200


@pytest.mark.parametrize("content_type", BODIES)
def test_mutated_bodies(content_type: str) -> None:
    outcomes = Counter(
        outcome(body, content_type) for body in mutations(BODIES[content_type], 2000)
    )
    assert outcomes.keys() <= {200, 400, 413, 422}
    # The mutations are neither all harmless nor all fatal.
    assert 50 < outcomes[200] < 1950, outcomes
