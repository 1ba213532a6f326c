"""The local runtime: a model package on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from repzoo.errors import InvalidInput, UnknownTask, UnsupportedOperation
from repzoo.packages.config import ModelConfig, ProbeSpec
from repzoo.runtime.images import Images, Pixels, as_pixels, batches
from repzoo.runtime.prior import Prior
from repzoo.runtime.sessions import (
    Floats,
    Graph,
    Provider,
    Rows,
    Runtime,
    Tensor,
    positive,
    to_host,
)

__all__ = [
    "Encoder",
    "Generation",
    "Posterior",
    "Predictions",
    "Reconstruction",
    "unit_length",
]


class Posterior(NamedTuple):
    """``q(z|x) = N(mean, diag(variance))`` of each image."""

    #: float32 ``[N, D]``; what `Encoder.embed` gives.
    mean: Floats
    #: float32 ``[N, D]``, in the units of ``mean`` squared.
    variance: Floats
    #: float32 ``[N]`` in [0, 1], see `Encoder.uncertainty`; None if the model has none.
    uncertainty: Floats | None


class Reconstruction(NamedTuple):
    """What the decoder makes of each image's embedding."""

    #: float32 ``[N, H, W, C]`` in [0, 1].
    images: Floats
    #: float32 ``[N]``: mean squared difference from the preprocessed image, on the same scale.
    error: Floats


class Generation(NamedTuple):
    """Images from the prior, or from given latents."""

    #: float32 ``[N, H, W, C]`` in [0, 1].
    images: Floats
    #: float32 ``[N, D]``: what they were decoded from.
    latents: Floats


class Predictions(NamedTuple):
    """What a probe says of each image."""

    #: names of the K classes.
    classes: tuple[str, ...]
    #: float32 ``[N, K]``; rows sum to one unless the probe is multi-label.
    probabilities: Floats
    #: the likeliest class of each image; of a multi-label probe, all with probability 0.5 or more.
    labels: list[str] | list[list[str]]


class Encoder:
    """A pretrained encoder, with whatever else its package holds. Made by `repzoo.load`.

        >>> encoder = repzoo.load("simvae-mnist")
        >>> encoder.embed(["one.png", "two.png"]).shape
        (2, 10)

    Wherever ``images`` are taken, they are one image or an iterable of them: uint8 arrays, Pillow
    images, paths or an encoded file's bytes, see `repzoo.runtime.images.as_pixels`. They are decoded and
    run ``batch_size`` at a time. All methods may be called from several threads at once.

    Attributes:
        config: the model's record.
        path: the package's folder.
        revision: sha256 of its manifest, in hex.
        provider: the ONNX Runtime execution provider in use, for example "CPUExecutionProvider".
    """

    config: ModelConfig
    path: Path
    revision: str
    provider: str

    def __init__(
        self,
        path: Path,
        config: ModelConfig,
        *,
        revision: str = "",
        provider: Provider | None = None,
        threads: int | None = None,
    ) -> None:
        """Load the graphs that lie in a package's folder, whose files are taken as they are.

        `repzoo.load` verifies them first and is what to call, but for a package in the making.

        Args:
            path: the folder.
            config: the model's record.
            revision: sha256 of the package's manifest, where it has one yet.
            provider: "cpu" or "cuda"; by default CUDA where a GPU and its libraries work.
            threads: threads that one call may use; by default as many as the machine has cores.

        Raises:
            PackageError: if a graph is not valid or is not what the config says.
            InvalidInput: if the provider asked for is not there.
        """
        self.config = config
        self.path = path
        self.revision = revision

        runtime = Runtime(provider, threads)
        latent: Tensor = "tensor(float)", (None, config.latent_dim)

        def graph(file: str, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> Graph:
            return Graph(runtime.session(path / file), path / file, inputs, outputs)

        self._encoder = graph(
            "encoder.onnx",
            {"images": ("tensor(uint8)", (None, *config.input.shape))},
            dict.fromkeys(config.outputs, latent),
        )
        self._decoder = None
        if config.has_decoder:
            images: Tensor = "tensor(float)", (None, *config.input.shape)
            self._decoder = graph("decoder.onnx", {"latents": latent}, {"images": images})
        self._probes = {}
        for spec in config.probes:
            logits: Tensor = "tensor(float)", (None, len(spec.classes))
            head = graph(spec.file, {"embedding": latent}, {"logits": logits})
            self._probes[spec.task, spec.kind] = head
        self._uncertainty = None
        if config.uncertainty is not None:
            pixels: Tensor = "tensor(uint8)", (None, *config.input.shape)
            self._uncertainty = graph(
                "uncertainty.onnx",
                {n: pixels if n == "images" else latent for n in config.uncertainty.inputs},
                {"uncertainty": ("tensor(float)", (None,))},
            )
        self._prior = Prior.read(path / "prior.npz", config.latent_dim)
        self.provider = self._encoder.provider

    def __repr__(self) -> str:
        return f"Encoder({self.config.name!r}, revision={self.revision[:12]!r}, {self.provider})"

    def preprocess(self, images: Images) -> Pixels:
        """The pixels that the model sees of each image: uint8 ``[N, H, W, C]``.

        Raises:
            InvalidImage: if an image cannot be used; its ``index`` is its place in ``images``.
        """
        return as_pixels(images, self.config.input)

    def embed(self, images: Images, *, normalize: bool = False, batch_size: int = 256) -> Floats:
        """Embed images; with a posterior, its mean. See `uncertainty` for how sure it is.

        Args:
            images: one image or many.
            normalize: divide each embedding by its Euclidean length, unless that is zero.
            batch_size: images that are decoded and run at once.

        Returns:
            float32 ``[N, D]``.

        Raises:
            InvalidImage: if an image cannot be used; its ``index`` is its place in ``images``.
        """
        embedding = self._outputs(images, ("embedding",), batch_size)["embedding"]
        return unit_length(embedding) if normalize else embedding

    def posterior(self, images: Images, *, batch_size: int = 256) -> Posterior:
        """The posterior over the latents of each image.

        Raises:
            UnsupportedOperation: if the model has no posterior.
            InvalidImage: if an image cannot be used; its ``index`` is its place in ``images``.
        """
        if not self.config.has_posterior:
            raise UnsupportedOperation(f"{self.config.name} has no posterior")
        outputs = self.outputs(images, uncertainty=True, batch_size=batch_size)
        return Posterior(
            outputs["embedding"], np.exp(outputs["log_variance"]), outputs.get("uncertainty")
        )

    def uncertainty(self, images: Images, *, batch_size: int = 256) -> Floats:
        """How likely each image's nearest neighbour is a wrong one: a calibrated probability.

        ``config.uncertainty`` says in which gallery, and what wrong is.

        Returns:
            float32 ``[N]`` in [0, 1].

        Raises:
            UnsupportedOperation: if the model has no calibrated uncertainty.
            InvalidImage: if an image cannot be used; its ``index`` is its place in ``images``.
        """
        self._require_uncertainty()
        return self._outputs(images, ("uncertainty",), batch_size)["uncertainty"]

    def uncertainty_of(self, outputs: Mapping[str, Floats], pixels: Pixels) -> Floats:
        """The same for images whose `outputs` are at hand; `outputs` can give it along with them.

        Args:
            outputs: of the encoder, float32 ``[N, D]`` by name.
            pixels: the preprocessed images that gave them, uint8 ``[N, H, W, C]``.

        Raises:
            UnsupportedOperation: if the model has no calibrated uncertainty.
        """
        return self._probability({**outputs, "images": pixels})

    def reconstruct(self, images: Images, *, batch_size: int = 256) -> Reconstruction:
        """Encode images and decode them again.

        Raises:
            UnsupportedOperation: if the model has no decoder.
            InvalidImage: if an image cannot be used; its ``index`` is its place in ``images``.
        """
        decoder = self._require_decoder()
        decoded, errors = [], []
        for pixels in self._chunks(images, batch_size):
            latents = self._encode(pixels, ("embedding",))["embedding"]
            output = to_host(decoder.run({"latents": latents})["images"])
            decoded.append(output)
            squares = np.square(output - pixels.astype(np.float32) / 255)
            errors.append(squares.mean(axis=(1, 2, 3), dtype=np.float32))
        shape = self.config.input.shape
        return Reconstruction(_concatenate(decoded, shape), _concatenate(errors, ()))

    def generate(
        self,
        n: int = 1,
        *,
        seed: int | None = None,
        latents: ArrayLike | None = None,
        batch_size: int = 256,
    ) -> Generation:
        """Draw images from the model's prior, or decode given latents.

        The same seed gives the same images, and fewer of them are the first of more.

        Args:
            n: how many to draw.
            seed: not negative; by default every call draws anew.
            latents: float ``[N, D]`` or ``[D]`` to decode; ``n`` and ``seed`` then mean nothing.
            batch_size: images that are decoded at once.

        Raises:
            UnsupportedOperation: if the model has no decoder, or no prior to draw from.
            InvalidInput: if an argument is out of range, or latents have another shape.
        """
        decoder = self._require_decoder()
        drawn = self.sample(n, seed=seed) if latents is None else self._as_latents(latents)
        starts = range(0, len(drawn), positive(batch_size, "batch_size"))
        inputs = ({"latents": drawn[start : start + batch_size]} for start in starts)
        decoded = [to_host(decoder.run(each)["images"]) for each in inputs]
        return Generation(_concatenate(decoded, self.config.input.shape), drawn)

    def sample(self, n: int = 1, *, seed: int | None = None) -> Floats:
        """Draw latents from the model's prior; what `generate` decodes.

        Args:
            n: how many.
            seed: not negative; by default every call draws anew.

        Returns:
            float32 ``[N, D]``.

        Raises:
            UnsupportedOperation: if the model has no prior.
            InvalidInput: if an argument is out of range.
        """
        if self._prior is None:
            raise UnsupportedOperation(f"{self.config.name} has no prior to draw latents from")
        if seed is not None and seed < 0:
            raise InvalidInput(f"seed is {seed}; expected 0 or more")
        return self._prior.sample(positive(n, "n"), seed)

    def probe(
        self, images: Images, task: str, kind: str = "linear", *, batch_size: int = 256
    ) -> Predictions:
        """Classify images with one of the model's probes.

        Raises:
            UnknownTask: if the model has no probe for this task and kind.
            InvalidImage: if an image cannot be used; its ``index`` is its place in ``images``.
        """
        spec = self.config.probe(task, kind)
        if spec is None:
            there = ", ".join(f"{p.task} ({p.kind})" for p in self.config.probes) or "none"
            raise UnknownTask(f"{self.config.name} has no probe {task} ({kind}); there: {there}")
        probe = self._probes[task, kind]
        logits = [
            to_host(probe.run(self._encode(pixels, ("embedding",)))["logits"])
            for pixels in self._chunks(images, batch_size)
        ]
        return _predictions(spec, _concatenate(logits, (len(spec.classes),)))

    def outputs(
        self, images: Images, *, uncertainty: bool = False, batch_size: int = 256
    ) -> dict[str, Floats]:
        """The encoder graph's own outputs: ``embedding`` and, with a posterior, ``log_variance``.

        Args:
            images: one image or many.
            uncertainty: give ``uncertainty`` too, if the model has one: what `uncertainty` gives.
            batch_size: images that are decoded and run at once.

        Returns:
            float32 ``[N, D]`` by name, in the order of ``config.outputs``; ``uncertainty`` is
            float32 ``[N]``.

        Raises:
            InvalidImage: if an image cannot be used; its ``index`` is its place in ``images``.
        """
        too = ("uncertainty",) if uncertainty and self._uncertainty is not None else ()
        return self._outputs(images, (*self.config.outputs, *too), batch_size)

    def _outputs(
        self, images: Images, names: tuple[str, ...], batch_size: int
    ) -> dict[str, Floats]:
        chunks: dict[str, list[Floats]] = {name: [] for name in names}
        for pixels in self._chunks(images, batch_size):
            rows = self._encode(pixels, names)
            for name in names:
                chunks[name].append(to_host(rows[name]))
        row = (self.config.latent_dim,)
        return {
            name: _concatenate(chunks[name], () if name == "uncertainty" else row) for name in names
        }

    def _encode(self, pixels: Pixels, names: tuple[str, ...]) -> dict[str, Rows]:
        """The named outputs of one batch and maybe others, left where they were computed."""
        if "uncertainty" not in names:
            return self._encoder.run({"images": pixels}, names)
        rows = {"images": self._encoder.upload(pixels)}
        rows |= self._encoder.run(rows)
        return rows | {"uncertainty": self._probability(rows)}

    def _probability(self, rows: Mapping[str, Rows]) -> Floats:
        probability = self._require_uncertainty().run(rows)["uncertainty"]
        return np.clip(to_host(probability), 0, 1)

    def _chunks(self, images: Images, batch_size: int) -> Iterator[Pixels]:
        return batches(images, self.config.input, positive(batch_size, "batch_size"))

    def _require_decoder(self) -> Graph:
        if self._decoder is None:
            raise UnsupportedOperation(f"{self.config.name} has no decoder")
        return self._decoder

    def _require_uncertainty(self) -> Graph:
        if self._uncertainty is None:
            raise UnsupportedOperation(f"{self.config.name} has no calibrated uncertainty")
        return self._uncertainty

    def _as_latents(self, latents: ArrayLike) -> Floats:
        dim = self.config.latent_dim
        try:
            array = np.atleast_2d(np.asarray(latents, dtype=np.float32))
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"latents are no array of numbers: {error}") from None
        if array.ndim != 2 or array.shape[1] != dim:
            raise InvalidInput(f"latents have shape {list(array.shape)}; expected [N, {dim}]")
        if not np.isfinite(array).all():
            raise InvalidInput("latents must be finite")
        return array


def unit_length(embedding: Floats) -> Floats:
    """Each embedding of ``[N, D]`` divided by its Euclidean length, unless that is zero."""
    length = np.sqrt(np.square(embedding).sum(axis=1, keepdims=True))
    length[length == 0] = 1
    unit: Floats = embedding / length
    return unit


def _predictions(spec: ProbeSpec, logits: Floats) -> Predictions:
    if spec.multi_label:
        # The logistic function, in a form that does not overflow.
        probabilities = 0.5 * (1 + np.tanh(0.5 * logits))
        several = [[spec.classes[k] for k in np.flatnonzero(row >= 0.5)] for row in probabilities]
        return Predictions(spec.classes, probabilities, several)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    best = [spec.classes[k] for k in probabilities.argmax(axis=1)]
    return Predictions(spec.classes, probabilities, best)


def _concatenate(chunks: list[Floats], shape: tuple[int, ...]) -> Floats:
    """The chunks' rows, each of ``shape``, in one array, also if there are none."""
    if len(chunks) == 1:
        return chunks[0]
    return np.concatenate([np.empty((0, *shape), np.float32), *chunks])
