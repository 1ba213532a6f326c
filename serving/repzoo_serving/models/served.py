"""A loaded model and its operations, each with its own queue."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from repzoo.errors import InvalidImage, UnknownTask, UnsupportedOperation
from repzoo.runtime.contents import group_rows
from repzoo.runtime.encoder import Encoder, Posterior, unit_length

from repzoo_serving.http.problems import Problem
from repzoo_serving.http.timing import Timing
from repzoo_serving.models.batching import Batcher, Outputs
from repzoo_serving.models.decoding import Decoder
from repzoo_serving.models.image_index import Found, ImageIndex, Moments
from repzoo_serving.models.runner import Runner
from repzoo_serving.settings import Limits
from repzoo_serving.telemetry.metrics import Metrics
from repzoo_serving.wire import openai_api
from repzoo_serving.wire.request_bodies import (
    CAPABILITIES,
    EmbedOptions,
    GenerateOptions,
    Options,
    PosteriorOptions,
    ProbeOptions,
    Request,
    SearchOptions,
)
from repzoo_serving.wire.response_bodies import Result

__all__ = ["ServedModel"]

#: Maximum images in a batch that is not shared with other requests; constant, see `generate`.
_ALONE = 256
#: Maximum images in a batch that is compared with an index, which may be large.
_SEARCHED = 64


class ServedModel:
    """A model in memory. Its operations take checked requests and return results.

    Unsupported operations are refused before images are decoded, and invalid images before they are
    batched with the images of other requests.

    Args:
        encoder: The model.
        limits: Limits of batches and queues.
        decode: Decodes image files, for all models.
        metrics: Where batches are recorded.
        hang_seconds: A run that takes longer is considered to hang.
        alias: The name that it is served under, if that is not its own.
        index: Images to search, whose vectors this model has made.
    """

    def __init__(
        self,
        encoder: Encoder,
        limits: Limits,
        decode: Decoder,
        metrics: Metrics,
        hang_seconds: float = 10.0,
        *,
        alias: str | None = None,
        index: ImageIndex | None = None,
    ) -> None:
        self.encoder = encoder
        self.index = index
        self.name = alias or encoder.config.name
        self.latent_dim = encoder.config.latent_dim
        #: Approximate growth of the process when the model was loaded; 0 if it was not measured.
        self.memory_bytes = 0
        #: How long it took to load; 0 if it was not measured.
        self.load_seconds = 0.0
        self._limits = limits
        self._decode = decode
        self._metrics = metrics
        blank = np.zeros((1, *encoder.config.input.shape), np.uint8)
        self.runner = Runner(self.name, partial(_embed, encoder, False, False, blank), hang_seconds)
        self._batchers: dict[tuple[str, ...], Batcher] = {}

    @property
    def facts(self) -> dict[str, str]:
        """Facts about the model in every result."""
        return {"model": self.name, "revision": self.encoder.revision}

    @property
    def openai_names(self) -> list[str]:
        """Names under which ``/v1/embeddings`` serves the model."""
        robust = self.encoder.config.content is not None
        return [self.name, *([self.name + openai_api.ROBUST] if robust else [])]

    def describe(self) -> dict[str, Any]:
        """Return the model's entry in ``/models``."""
        config = self.encoder.config
        has = {
            "posterior": config.has_posterior,
            "content": config.content is not None,
            "reconstruct": config.has_decoder,
            "generate": config.has_decoder,
            "probe": bool(config.probes),
            "search": self.index is not None,
            "views": self.encoder.views is not None,
        }
        return {
            "name": self.name,
            "revision": self.encoder.revision,
            "provider": self.encoder.provider,
            "memory_bytes": self.memory_bytes,
            "capabilities": [name for name in CAPABILITIES if has.get(name, True)],
            "limits": self._limits.model_dump(),
            "config": config.record(),
            **({} if self.index is None else {"index": self.index.describe()}),
        }

    def warm_up(self) -> None:
        """Run every graph once, so that the first request is not slow."""
        encoder = self.encoder
        pixels = np.zeros((1, *encoder.config.input.shape), np.uint8)
        _embed(encoder, False, encoder.config.content is not None, pixels)
        if encoder.config.has_decoder:
            encoder.reconstruct(pixels)
        for probe in encoder.config.probes:
            encoder.probe(pixels, probe.task, probe.kind)

    def queued(self) -> dict[str, int]:
        """Return the number of images waiting for a batch, by operation."""
        rows = dict.fromkeys((key[0] for key in self._batchers), 0)
        for key, batcher in self._batchers.items():
            rows[key[0]] += batcher.queued
        return rows

    async def embed(self, request: Request[EmbedOptions], timing: Timing) -> Result:
        if request.options.dimensions not in (None, self.latent_dim):
            raise Problem(
                "malformed-request", f"dimensions: must be {self.latent_dim} for {self.name}"
            )
        normalize, robust = request.options.normalize, request.options.robust
        if robust and self.encoder.config.content is None:
            raise UnsupportedOperation(
                f"{self.name} has no content posterior: ask for plain embeddings"
            )
        pixels = await self._pixels(request, timing)
        run = partial(_embed, self.encoder, normalize, robust)
        key = ("embed", str(normalize), str(robust))
        outputs = await self._batch(run, pixels, timing, *key)
        return Result(self.facts, outputs, robust=robust)

    async def posterior(self, request: Request[PosteriorOptions], timing: Timing) -> Result:
        config = self.encoder.config
        if not config.has_posterior and config.content is None:
            raise UnsupportedOperation(f"{self.name} has no posterior; use /embed")
        if not config.has_posterior and not request.options.content:
            raise UnsupportedOperation(
                f"{self.name} has only a content posterior; send content: true to get it"
            )
        group = request.options.group
        if group is not None:
            self.encoder.require_fusion()
            group_rows(group, request.items)
        pixels = await self._pixels(request, timing)
        run = partial(_posterior, self.encoder)
        outputs = await self._batch(run, pixels, timing, "posterior")
        if group is not None:
            outputs = _as_arrays(
                self.encoder.fuse(Posterior(**{"variance": None, **outputs}), group)
            )
        return Result(self.facts, outputs)

    async def reconstruct(self, request: Request[Options], timing: Timing) -> Result:
        self._require_decoder()
        pixels = await self._pixels(request, timing)
        run = partial(_reconstruct, self.encoder)
        return Result(self.facts, await self._batch(run, pixels, timing, "reconstruct"))

    async def generate(self, request: Request[GenerateOptions], timing: Timing) -> Result:
        self._require_decoder()
        options = request.options
        latents = request.latents
        if options.n > self._limits.max_images:
            raise Problem(
                "too-many-images",
                f"n: a request may have at most {self._limits.max_images}, got {options.n}",
                limit=self._limits.max_images,
            )
        if request.has_images:
            latents = await self._views(request, timing)
        elif "vary" in options.model_fields_set:
            raise Problem("malformed-request", "vary: needs images, of which new views are drawn")
        elif latents is None:
            latents = self.encoder.sample(options.n, seed=options.seed)
        elif options.model_fields_set & {"n", "seed"}:
            raise Problem("malformed-request", "n and seed cannot be combined with latents")
        elif latents.shape[1] != self.latent_dim:
            raise Problem(
                "malformed-request",
                f"latents: expected [N, {self.latent_dim}] for {self.name}, "
                f"got {list(latents.shape)}",
            )
        # Not mixed with other requests: the same seed gives the same images, to the last bit.
        run = partial(_generate, self.encoder)
        outputs = await self._batch(run, latents, timing, "generate", mix=False)
        valid = outputs.pop("valid")
        if not valid.all():
            index = int(valid.argmin())
            raise Problem(
                "invalid-latents",
                f"latents {index}: the decoder overflows; use smaller numbers",
                index=index,
            )
        return Result(self.facts, {**outputs, "latents": latents})

    async def probe(self, request: Request[ProbeOptions], timing: Timing) -> Result:
        task, kind = request.options.task, request.options.kind
        spec = self.encoder.config.probe(task, kind)
        if spec is None:
            there = ", ".join(f"{p.task} ({p.kind})" for p in self.encoder.config.probes)
            raise UnknownTask(f"{self.name} has no probe {task} ({kind}); it has {there or 'none'}")
        pixels = await self._pixels(request, timing)
        run = partial(_probe, self.encoder, task, kind)
        outputs = await self._batch(run, pixels, timing, "probe", task, kind)
        labels = outputs.pop("labels")
        return Result({**self.facts, "classes": spec.classes, "labels": labels}, outputs)

    async def search(self, request: Request[SearchOptions], timing: Timing) -> Result:
        index = self.index
        if index is None:
            raise UnsupportedOperation(
                f"{self.name} has no index of images; start the server with --index"
            )
        options = request.options
        index.ranking(options.metric)  # refused before images are decoded
        abstain = options.abstain
        if abstain is not None and self.encoder.config.uncertainty is None:
            raise UnsupportedOperation(
                f"abstain: {self.name} has no calibrated uncertainty; leave it out"
            )
        pixels = await self._pixels(request, timing)
        run = partial(_search, self.encoder, index)
        outputs = await self._batch(
            run, _searched(pixels, options), timing, "search", most=_SEARCHED
        )
        found: list[Found] = outputs.pop("found")
        abstained = np.zeros(len(found), bool)
        if abstain is not None:
            abstained = outputs["uncertainty"] > abstain
        ids = [
            [] if silent else [index.ids[row] for row in each.rows]
            for each, silent in zip(found, abstained, strict=True)
        ]
        distances = np.stack([each.distances for each in found])
        distances[abstained] = np.nan
        facts = {**self.facts, "ids": ids, "abstained": abstained.tolist()}
        return Result(facts, {"distances": distances, **outputs}, gaps="distances")

    async def _views(
        self, request: Request[GenerateOptions], timing: Timing
    ) -> NDArray[np.float32]:
        """Return the latents of new views of what all images of a request show."""
        views, options = self.encoder.require_views(), request.options
        pixels = await self._pixels(request, timing)
        run = partial(_posterior, self.encoder)
        seen = await self._batch(run, pixels, timing, "generate", "images", mix=False)
        mean, variance = views.content(seen["mean"], seen["variance"])
        return views.sample(mean[0], variance[0], options.n, options.seed, options.vary)

    def _require_decoder(self) -> None:
        if not self.encoder.config.has_decoder:
            raise UnsupportedOperation(f"{self.name} has no decoder")

    async def _pixels(self, request: Request[Any], timing: Timing) -> NDArray[np.uint8]:
        """Return the images of a request as the model takes them: uint8 ``[N, H, W, C]``."""
        spec = self.encoder.config.input
        if request.pixels is not None:
            if request.pixels.shape[1:] != spec.shape:
                raise Problem(
                    "malformed-request",
                    f"images: expected uint8 {['N', *spec.shape]} for {self.name}, "
                    f"got {list(request.pixels.shape)}; send files to have them resized",
                )
            return request.pixels
        start = time.perf_counter()
        try:
            pixels = await self._decode(request.files or [], spec)
        except InvalidImage as error:
            raise error.at(error.index, request.name_of(error.index)) from error.__cause__
        timing.decode += time.perf_counter() - start
        return pixels

    async def _batch(
        self,
        run: Callable[[NDArray[Any]], Outputs],
        rows: NDArray[Any],
        timing: Timing,
        *key: str,
        mix: bool = True,
        most: int = sys.maxsize,
    ) -> dict[str, Any]:
        """Run ``rows`` through the batcher of ``key``, which begins with the operation's name."""
        batcher = self._batchers.get(key)
        if batcher is None:
            batcher = self._batchers[key] = Batcher(
                run,
                executor=self.runner,
                max_rows=min(
                    self._limits.max_batch, self.encoder.most_rows, most if mix else _ALONE
                ),
                max_queued=self._limits.max_queued,
                mix=mix,
                on_batch=partial(self._metrics.batch, (key[0], self.name)),
            )
        return await batcher(rows, timing)


# What a batcher runs: rows in, named outputs out.


def _embed(encoder: Encoder, normalize: bool, robust: bool, pixels: NDArray[Any]) -> Outputs:
    outputs = encoder.outputs(pixels, uncertainty=True, content=robust, batch_size=len(pixels))
    embedding = outputs["content_mean" if robust else "embedding"]
    made = {"embeddings": unit_length(embedding) if normalize else embedding}
    if "uncertainty" in outputs:
        made["uncertainty"] = outputs["uncertainty"]
    return made


def _posterior(encoder: Encoder, pixels: NDArray[Any]) -> Outputs:
    return _as_arrays(encoder.posterior(pixels, batch_size=len(pixels)))


def _reconstruct(encoder: Encoder, pixels: NDArray[Any]) -> Outputs:
    reconstruction = encoder.reconstruct(pixels, batch_size=len(pixels))
    return {"images": _as_uint8(reconstruction.images), "error": reconstruction.error}


def _generate(encoder: Encoder, latents: NDArray[Any]) -> Outputs:
    # Latents far outside the prior can overflow in the decoder.
    images = encoder.generate(latents=latents, batch_size=len(latents)).images
    valid = np.asarray(np.isfinite(images).all(axis=(1, 2, 3)))
    return {"images": _as_uint8(np.nan_to_num(images, copy=False)), "valid": valid}


def _probe(encoder: Encoder, task: str, kind: str, pixels: NDArray[Any]) -> Outputs:
    predictions = encoder.probe(pixels, task, kind, batch_size=len(pixels))
    return {"probabilities": predictions.probabilities, "labels": predictions.labels}


#: ``max_uncertainty`` of a request that has none.
_NO_LIMIT = -1.0


def _searched(pixels: NDArray[np.uint8], options: SearchOptions) -> NDArray[Any]:
    """Return images with the options of their search, so that requests can share batches."""
    about = [("metric", "U16"), ("k", "i4"), ("max_uncertainty", "f8")]
    rows = np.empty(len(pixels), [("pixels", "u1", pixels.shape[1:]), ("options", about)])
    rows["pixels"] = pixels
    most = options.max_uncertainty
    rows["options"] = (options.metric, options.k, _NO_LIMIT if most is None else most)
    return rows


def _search(encoder: Encoder, index: ImageIndex, rows: NDArray[Any]) -> Outputs:
    content = index.holds_content
    made = encoder.outputs(rows["pixels"], uncertainty=True, content=content, batch_size=len(rows))
    mean = made["content_mean" if content else "embedding"]
    if content:
        variance = made["content_variance"]
    elif encoder.config.has_posterior:
        variance = np.exp(made["log_variance"])
    else:
        variance = np.zeros_like(mean)
    found: list[Any] = [None] * len(rows)
    for options in np.unique(rows["options"]):
        places = np.flatnonzero(rows["options"] == options)
        metric, k, most = options.item()
        answers = index.search(
            Moments(mean[places], variance[places]),
            k,
            index.ranking(metric),
            None if most == _NO_LIMIT else most,
        )
        for place, answer in zip(places, answers, strict=True):
            found[place] = answer
    outputs: dict[str, Any] = {"found": found}
    if "uncertainty" in made:
        outputs["uncertainty"] = made["uncertainty"]
    return outputs


def _as_arrays(posterior: Posterior) -> dict[str, NDArray[Any]]:
    return {name: values for name, values in vars(posterior).items() if values is not None}


def _as_uint8(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
