"""One loaded model and its operations, each behind its own queue."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from repzoo.errors import UnknownTask, UnsupportedOperation
from repzoo.runtime.encoder import Encoder, unit_length

from repzoo_serving.http.problems import Problem
from repzoo_serving.http.timing import Timing
from repzoo_serving.models.batching import Batcher, Results
from repzoo_serving.models.decoding import Decoder
from repzoo_serving.models.runner import Runner
from repzoo_serving.settings import Limits
from repzoo_serving.telemetry.metrics import Metrics
from repzoo_serving.wire import openai_api as openai
from repzoo_serving.wire.answers import Answer
from repzoo_serving.wire.bodies import (
    OPERATIONS,
    EmbedOptions,
    GenerateOptions,
    Options,
    ProbeOptions,
    Request,
    parse,
)

__all__ = ["PATHS", "Operation", "ServedModel"]

#: Images of one request in a run that it has for itself; as many whatever the load, see `generate`.
_ALONE = 256


class ServedModel:
    """A model in memory. Its operations take checked requests and give answers.

    What the model cannot do is refused before an image is decoded, and what is no image before it
    meets the images of others.

    Args:
        encoder: the model.
        limits: how many images a batch and a queue may have.
        decode: decodes image files, for all models.
        metrics: told of every batch.
        hang_seconds: a run that takes longer is taken to hang.
    """

    def __init__(
        self,
        encoder: Encoder,
        limits: Limits,
        decode: Decoder,
        metrics: Metrics,
        hang_seconds: float = 10.0,
    ) -> None:
        self.encoder = encoder
        self.name = encoder.config.name
        #: what the process gained when it was loaded and run; about, and 0 where nobody looked.
        self.memory_bytes = 0
        self._limits = limits
        self._decode = decode
        self._metrics = metrics
        blank = np.zeros((1, *encoder.config.input.shape), np.uint8)
        self.runner = Runner(self.name, partial(_embed, encoder, False, blank), hang_seconds)
        self._batchers: dict[tuple[str, ...], Batcher] = {}

    @property
    def facts(self) -> dict[str, str]:
        """What every answer says of the model that gave it."""
        return {"model": self.name, "revision": self.encoder.revision}

    def describe(self) -> dict[str, Any]:
        """The model's entry in ``/models``."""
        config = self.encoder.config
        has = {
            "posterior": config.has_posterior,
            "reconstruct": config.has_decoder,
            "generate": config.has_decoder,
            "probe": bool(config.probes),
        }
        return {
            "name": self.name,
            "revision": self.encoder.revision,
            "provider": self.encoder.provider,
            "memory_bytes": self.memory_bytes,
            "capabilities": [name for name in OPERATIONS if has.get(name, True)],
            "limits": self._limits.model_dump(),
            "config": config.model_dump(mode="json"),
        }

    def warm_up(self) -> None:
        """Run every graph once, so that the first request does not wait for it."""
        encoder = self.encoder
        pixels = np.zeros((1, *encoder.config.input.shape), np.uint8)
        _embed(encoder, False, pixels)
        if encoder.config.has_decoder:
            encoder.reconstruct(pixels)
        for probe in encoder.config.probes:
            encoder.probe(pixels, probe.task, probe.kind)

    def queued(self) -> dict[str, int]:
        """Images that wait for a batch, by operation."""
        rows = dict.fromkeys((key[0] for key in self._batchers), 0)
        for key, batcher in self._batchers.items():
            rows[key[0]] += batcher.queued
        return rows

    async def embed(self, request: Request[EmbedOptions], timing: Timing) -> Answer:
        dimensions, there = request.options.dimensions, self.encoder.config.latent_dim
        if dimensions not in (None, there):
            raise Problem("malformed-request", f"dimensions: {self.name} has {there} of them")
        pixels = await self._pixels(request, timing)
        normalize = request.options.normalize
        run = partial(_embed, self.encoder, normalize)
        return Answer(self.facts, await self._batch(run, pixels, timing, "embed", str(normalize)))

    async def posterior(self, request: Request[Options], timing: Timing) -> Answer:
        if not self.encoder.config.has_posterior:
            raise UnsupportedOperation(f"{self.name} has no posterior; /embed works")
        pixels = await self._pixels(request, timing)
        run = partial(_posterior, self.encoder)
        return Answer(self.facts, await self._batch(run, pixels, timing, "posterior"))

    async def reconstruct(self, request: Request[Options], timing: Timing) -> Answer:
        self._require_decoder()
        pixels = await self._pixels(request, timing)
        run = partial(_reconstruct, self.encoder)
        return Answer(self.facts, await self._batch(run, pixels, timing, "reconstruct"))

    async def generate(self, request: Request[GenerateOptions], timing: Timing) -> Answer:
        self._require_decoder()
        options = request.options
        latents = request.latents
        if latents is None:
            if options.n > self._limits.max_images:
                raise Problem(
                    "too-many-images",
                    f"n: {options.n} are more than the {self._limits.max_images} that one request "
                    "may have",
                    limit=self._limits.max_images,
                )
            latents = self.encoder.sample(options.n, seed=options.seed)
        elif options.model_fields_set & {"n", "seed"}:
            raise Problem("malformed-request", "n and seed have no meaning beside latents")
        elif latents.shape[1] != self.encoder.config.latent_dim:
            raise Problem(
                "malformed-request",
                f"latents: {self.name} takes [N, {self.encoder.config.latent_dim}], "
                f"{list(latents.shape)} were sent",
            )
        # Not mixed with others: the same seed gives the same images, to the last bit.
        run = partial(_generate, self.encoder)
        results = await self._batch(run, latents, timing, "generate", mix=False)
        return Answer(self.facts, {**results, "latents": latents})

    async def probe(self, request: Request[ProbeOptions], timing: Timing) -> Answer:
        task, kind = request.options.task, request.options.kind
        spec = self.encoder.config.probe(task, kind)
        if spec is None:
            there = ", ".join(f"{p.task} ({p.kind})" for p in self.encoder.config.probes)
            raise UnknownTask(f"{self.name} has no probe {task} ({kind}); there: {there or 'none'}")
        pixels = await self._pixels(request, timing)
        run = partial(_probe, self.encoder, task, kind)
        results = await self._batch(run, pixels, timing, "probe", task, kind)
        labels = results.pop("labels")
        return Answer({**self.facts, "classes": spec.classes, "labels": labels}, results)

    def _require_decoder(self) -> None:
        if not self.encoder.config.has_decoder:
            raise UnsupportedOperation(f"{self.name} has no decoder")

    async def _pixels(self, request: Request[Any], timing: Timing) -> NDArray[np.uint8]:
        """The images of a request as the model takes them: uint8 ``[N, H, W, C]``."""
        spec = self.encoder.config.input
        if request.pixels is not None:
            if request.pixels.shape[1:] != spec.shape:
                raise Problem(
                    "malformed-request",
                    f"images: {self.name} takes uint8 {['N', *spec.shape]}, "
                    f"{list(request.pixels.shape)} were sent; send files to have them resized",
                )
            return request.pixels
        start = time.perf_counter()
        pixels = await self._decode(request.files or [], spec)
        timing.decode += time.perf_counter() - start
        return pixels

    async def _batch(
        self,
        run: Callable[[NDArray[Any]], Results],
        rows: NDArray[Any],
        timing: Timing,
        *key: str,
        mix: bool = True,
    ) -> dict[str, Any]:
        """Run ``rows`` through the batcher that all requests of the same ``key`` share.

        The key begins with the operation's name.
        """
        batcher = self._batchers.get(key)
        if batcher is None:
            batcher = self._batchers[key] = Batcher(
                run,
                executor=self.runner,
                max_rows=self._limits.max_batch if mix else min(self._limits.max_batch, _ALONE),
                max_queued=self._limits.max_queued,
                mix=mix,
                on_batch=partial(self._metrics.batch, (key[0], self.name)),
            )
        return await batcher(rows, timing)


class Parse(Protocol):
    """Checks one body, of a content type."""

    def __call__(self, body: bytes, content_type: bytes, *, max_items: int) -> Request[Any]: ...


@dataclass(frozen=True)
class Operation:
    """One POST endpoint: what reads its requests, answers them, and writes the answers."""

    parse: Parse
    answer: Callable[[ServedModel, Request[Any], Timing], Any]
    write: Callable[[Answer, str], bytes] = Answer.body
    #: whether the answer can be safetensors too.
    tensors_too: bool = True


_ANSWERS: Mapping[str, Callable[[ServedModel, Request[Any], Timing], Any]] = {
    "embed": ServedModel.embed,
    "posterior": ServedModel.posterior,
    "reconstruct": ServedModel.reconstruct,
    "generate": ServedModel.generate,
    "probe": ServedModel.probe,
}

#: What is served at which path.
PATHS = {
    f"/{name}": Operation(
        partial(parse, options=options, payload="latents" if name == "generate" else "images"),
        _ANSWERS[name],
    )
    for name, options in OPERATIONS.items()
} | {"/v1/embeddings": Operation(openai.parse, ServedModel.embed, openai.document, False)}


# What a batcher runs: rows in, named results out.


def _embed(encoder: Encoder, normalize: bool, pixels: NDArray[Any]) -> Results:
    outputs = encoder.outputs(pixels, uncertainty=True, batch_size=len(pixels))
    embedding = outputs["embedding"]
    results = {"embeddings": unit_length(embedding) if normalize else embedding}
    if "uncertainty" in outputs:
        results["uncertainty"] = outputs["uncertainty"]
    return results


def _posterior(encoder: Encoder, pixels: NDArray[Any]) -> Results:
    posterior = encoder.posterior(pixels, batch_size=len(pixels))
    results = {"mean": posterior.mean, "variance": posterior.variance}
    if posterior.uncertainty is not None:
        results["uncertainty"] = posterior.uncertainty
    return results


def _reconstruct(encoder: Encoder, pixels: NDArray[Any]) -> Results:
    reconstruction = encoder.reconstruct(pixels, batch_size=len(pixels))
    return {"images": _as_uint8(reconstruction.images), "error": reconstruction.error}


def _generate(encoder: Encoder, latents: NDArray[Any]) -> Results:
    return {"images": _as_uint8(encoder.generate(latents=latents, batch_size=len(latents)).images)}


def _probe(encoder: Encoder, task: str, kind: str, pixels: NDArray[Any]) -> Results:
    predictions = encoder.probe(pixels, task, kind, batch_size=len(pixels))
    return {"probabilities": predictions.probabilities, "labels": predictions.labels}


def _as_uint8(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
