"""A reference for our server: a bare Starlette application with the same engine.

    python serving/benchmarks/bare_starlette.py simvae-mnist 8001

It takes one image as JSON, ``{"images": [BASE64]}``, at ``/embed``, checks nothing, and collects
the next batch while one runs: what a good engineer writes in an hour.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import repzoo
import uvicorn
from repzoo.runtime.images import as_pixels
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from work import work

MAX_BATCH = 256


def main(model: str, port: int) -> None:
    encoder = repzoo.load(model)
    executor = ThreadPoolExecutor(1)
    waiting: list[tuple[np.ndarray[Any, Any], asyncio.Future[Any]]] = []
    workers: set[asyncio.Task[None]] = set()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        while waiting:
            batch, waiting[:] = waiting[:MAX_BATCH], waiting[MAX_BATCH:]
            rows = np.concatenate([pixels for pixels, _ in batch])
            results = await loop.run_in_executor(executor, work, encoder, rows)
            for (_, future), result in zip(batch, results, strict=True):
                future.set_result(result)
        workers.clear()

    async def embed(request: Request) -> JSONResponse:
        document = await request.json()
        files = [base64.b64decode(text) for text in document["images"]]
        future = asyncio.get_running_loop().create_future()
        waiting.append((as_pixels(files, encoder.config.input), future))
        if not workers:
            workers.add(asyncio.create_task(run()))
        return JSONResponse(await future)

    app = Starlette(routes=[Route("/embed", embed, methods=["POST"])])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
