"""The local runtime: a model package on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from repzoo.errors import InvalidInput, UnknownTask, UnsupportedOperation
from repzoo.packages.config import ModelConfig, ProbeSpec
from repzoo.runtime.contents import Vary, ViewModel, group_rows, product, read_view_model
from repzoo.runtime.images import Images, Pixels, as_pixels, batches
from repzoo.runtime.prior import read_prior, sample_prior
from repzoo.runtime.sessions import (
    Floats,
    Graph,
    Provider,
    Rows,
    SessionFactory,
    Tensor,
    positive,
    to_host,
)

__all__ = [
    "NO_CONTENT",
    "Encoder",
    "Generation",
    "Posterior",
    "Predictions",
    "Reconstruction",
    "unit_length",
]


NO_CONTENT = "has no content posterior; `zoo calibrate --degrade all` makes a package that has one"
_NO_VIEWS = "has no model of several views of one thing; models trained with SimVAE have one"
#: Pixels of all images in one run. The activations of a ViT-B take about 700 bytes per pixel.
_MOST_PIXELS = 2**22
#: Outputs of ``content.onnx``.
_CONTENT = ("content_mean", "content_variance")


@dataclass(frozen=True, eq=False)
class Posterior:
    """The encoder's posterior and the content posterior of each image.

    It unpacks to ``mean, variance, uncertainty``. With ``group``, rows are the things that the
    images show, see `Encoder.fuse`.

    Attributes:
        mean: float32 ``[N, D]``, the same as `Encoder.embed` returns.
        variance: float32 ``[N, D]``, in the units of ``mean`` squared: ``q(z|x) = N(mean,
            diag(variance))``. None if the encoder has no posterior of its own.
        uncertainty: float32 ``[N]`` in [0, 1], see `Encoder.uncertainty`. None if the model has no
            uncertainty.
        content_mean: float32 ``[N, D]``: where the embedding of an undegraded picture of the same
            content lies, see `repzoo.packages.config.ContentSpec`. None if the model has no content
            posterior.
        content_variance: float32 ``[N, D]``: how far off ``content_mean`` may be.
    """

    mean: Floats
    variance: Floats | None
    uncertainty: Floats | None = None
    content_mean: Floats | None = None
    content_variance: Floats | None = None

    def __iter__(self) -> Iterator[Floats | None]:
        return iter((self.mean, self.variance, self.uncertainty))


class Reconstruction(NamedTuple):
    """The images that the decoder reconstructs from the embeddings."""

    #: float32 ``[N, H, W, C]`` in [0, 1].
    images: Floats
    #: float32 ``[N]``: mean squared error against the preprocessed image, scaled to [0, 1].
    error: Floats


class Generation(NamedTuple):
    """Images decoded from the prior or from given latents."""

    #: float32 ``[N, H, W, C]`` in [0, 1].
    images: Floats
    #: float32 ``[N, D]``: the latents that were decoded.
    latents: Floats


class Predictions(NamedTuple):
    """The predictions of a probe."""

    #: Names of the K classes.
    classes: tuple[str, ...]
    #: float32 ``[N, K]``. Rows sum to one unless the probe is multi-label.
    probabilities: Floats
    #: The most likely class of each image; for a multi-label probe, all with probability >= 0.5.
    labels: list[str] | list[list[str]]


class Encoder:
    """A pretrained encoder and the other models in its package. Created by `repzoo.load`.

        >>> encoder = repzoo.load("simvae-mnist")
        >>> encoder.embed(["one.png", "two.png"]).shape
        (2, 10)

    ``images`` is one image or an iterable of images: uint8 arrays, Pillow images, paths, or the
    bytes of encoded files, see `repzoo.runtime.images.as_pixels`. They are decoded and run in
    batches of ``batch_size``, or `most_rows` if that is less. All methods are thread-safe.

    Attributes:
        config: The model's record.
        path: The package's folder.
        revision: The sha256 of the package's manifest, in hex.
        provider: The ONNX Runtime execution provider, for example "CPUExecutionProvider".
        views: SimVAE's model of several views of one thing, or None for other models.
    """

    config: ModelConfig
    path: Path
    revision: str
    provider: str
    views: ViewModel | None

    def __init__(
        self,
        path: Path,
        config: ModelConfig,
        *,
        revision: str = "",
        provider: Provider | None = None,
        threads: int | None = None,
    ) -> None:
        """Load the graphs in a package's folder without verifying them.

        Use `repzoo.load`, which verifies the package first, unless the package is not finished yet.

        Args:
            path: The package's folder.
            config: The model's record.
            revision: The sha256 of the package's manifest, if it has one yet.
            provider: "cpu" or "cuda". By default CUDA is used if a GPU and its libraries work.
            threads: The number of threads per call. By default the number of cores.

        Raises:
            PackageError: If a graph is not valid or does not match the config.
            InvalidInput: If the requested provider is not available.
        """
        self.config = config
        self.path = path
        self.revision = revision

        sessions = SessionFactory(provider, threads)
        latent: Tensor = "tensor(float)", (None, config.latent_dim)

        def graph(file: str, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> Graph:
            return Graph(sessions.create(path / file), path / file, inputs, outputs)

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
        pixels: Tensor = "tensor(uint8)", (None, *config.input.shape)

        def head_inputs(names: tuple[str, ...]) -> dict[str, Tensor]:
            return {name: pixels if name == "images" else latent for name in names}

        self._content = None
        if config.content is not None:
            self._content = graph(
                "content.onnx", head_inputs(config.content.inputs), dict.fromkeys(_CONTENT, latent)
            )
        self._uncertainty = None
        if config.uncertainty is not None:
            self._uncertainty = graph(
                "uncertainty.onnx",
                head_inputs(config.uncertainty.inputs),
                {"uncertainty": ("tensor(float)", (None,))},
            )
        prior = path / "prior.npz"
        self._prior = read_prior(prior, config.latent_dim) if prior.exists() else None
        self.views = read_view_model(path / "metrics.json") if config.has_posterior else None
        self.provider = self._encoder.provider

    def __repr__(self) -> str:
        return f"Encoder({self.config.name!r}, revision={self.revision[:12]!r}, {self.provider})"

    def preprocess(self, images: Images) -> Pixels:
        """Return the pixels that the model receives for each image: uint8 ``[N, H, W, C]``.

        Raises:
            InvalidImage: If an image cannot be used. Its ``index`` is its position in ``images``.
        """
        return as_pixels(images, self.config.input)

    def embed(
        self,
        images: Images,
        *,
        normalize: bool = False,
        robust: bool = False,
        batch_size: int = 256,
    ) -> Floats:
        """Embed images. If the model has a posterior, the embedding is its mean.

        Args:
            images: One image or many.
            normalize: Divide each embedding by its Euclidean length, unless the length is zero.
            robust: Return the content mean instead: the expected embedding of an undegraded picture
                of the same content.
            batch_size: The number of images that are decoded and run at once.

        Returns:
            float32 ``[N, D]``.

        Raises:
            UnsupportedOperation: If ``robust`` is set and the model has no content posterior.
            InvalidImage: If an image cannot be used. Its ``index`` is its position in ``images``.
        """
        if robust:
            self._require_content()
        name = "content_mean" if robust else "embedding"
        embedding = self._outputs(images, (name,), batch_size)[name]
        return unit_length(embedding) if normalize else embedding

    def posterior(
        self,
        images: Images,
        *,
        group: Iterable[Hashable] | None = None,
        batch_size: int = 256,
    ) -> Posterior:
        """Return the encoder's posterior and the content posterior of each image.

        Several views of one thing give a sharper posterior of what they share than one view.

        Args:
            images: One image or many.
            group: An id for each image. Images with the same id are views of one thing, and are
                fused into one row, see `fuse`.
            batch_size: The number of images that are decoded and run at once.

        Raises:
            UnsupportedOperation: If the model has neither, or cannot fuse views.
            InvalidImage: If an image cannot be used. Its ``index`` is its position in ``images``.
            InvalidInput: If ``group`` does not have one id per image.
        """
        if not self.config.has_posterior and self._content is None:
            raise UnsupportedOperation(f"{self.config.name} has no posterior")
        if group is not None:
            self.require_fusion()
        outputs = self.outputs(images, uncertainty=True, content=True, batch_size=batch_size)
        log_variance = outputs.get("log_variance")
        posterior = Posterior(
            outputs["embedding"],
            None if log_variance is None else np.exp(log_variance),
            outputs.get("uncertainty"),
            outputs.get("content_mean"),
            outputs.get("content_variance"),
        )
        return posterior if group is None else self.fuse(posterior, group)

    def fuse(self, posterior: Posterior, group: Iterable[Hashable]) -> Posterior:
        """Fuse the posteriors of images into one row for each thing that they show.

        ``mean`` and ``variance`` then are those of the content ψ, around which SimVAE's views
        scatter: p(ψ | x_1..x_J). For a model that SimVAE did not train, ``mean`` is the average
        embedding and ``variance`` is None. ``content_mean`` and ``content_variance`` are the
        product of the images' content posteriors. ``uncertainty`` is None, because it is calibrated
        for single images. `repzoo.runtime.contents` derives all this.

        Args:
            posterior: What `posterior` returns for N images.
            group: An id for each image. Rows are in the order in which ids first appear.

        Returns:
            G rows, one for each id.

        Raises:
            UnsupportedOperation: If the model was not trained with SimVAE and has no content
                posterior.
            InvalidInput: If ``group`` does not have one id per image.
        """
        self.require_fusion()
        rows = group_rows(group, len(posterior.mean))
        content_mean = content_variance = None
        if posterior.content_mean is not None and posterior.content_variance is not None:
            content_mean, content_variance = product(
                posterior.content_mean, posterior.content_variance, rows
            )
        if self.views is not None and posterior.variance is not None:
            mean, variance = self.views.content(posterior.mean, posterior.variance, rows)
            return Posterior(mean, variance, None, content_mean, content_variance)
        mean, _ = product(posterior.mean, np.ones_like(posterior.mean), rows)
        return Posterior(mean, None, None, content_mean, content_variance)

    def require_fusion(self) -> None:
        """Check that `fuse` can be used.

        Raises:
            UnsupportedOperation: If the model was not trained with SimVAE and has no content
                posterior.
        """
        if self.views is None and self._content is None:
            raise UnsupportedOperation(f"{self.config.name} {_NO_VIEWS}")

    def require_views(self) -> ViewModel:
        """Return `views`.

        Raises:
            UnsupportedOperation: If the model was not trained with SimVAE.
        """
        if self.views is None:
            raise UnsupportedOperation(f"{self.config.name} {_NO_VIEWS}")
        return self.views

    def uncertainty(self, images: Images, *, batch_size: int = 256) -> Floats:
        """Return the uncertainty of each image: a calibrated probability.

        For most models, it is the probability that the nearest of the training images has another
        label. ``config.uncertainty`` says exactly what it is. It is calibrated for images like
        those that it was fitted to.

        Returns:
            float32 ``[N]`` in [0, 1].

        Raises:
            UnsupportedOperation: If the model has no calibrated uncertainty.
            InvalidImage: If an image cannot be used. Its ``index`` is its position in ``images``.
        """
        self._require_uncertainty()
        return self._outputs(images, ("uncertainty",), batch_size)["uncertainty"]

    def uncertainty_of(self, outputs: Mapping[str, Floats], pixels: Pixels) -> Floats:
        """Compute `uncertainty` from `outputs` without running the encoder again.

        Args:
            outputs: The encoder's outputs, float32 ``[N, D]`` by name.
            pixels: The preprocessed images behind these outputs, uint8 ``[N, H, W, C]``.

        Raises:
            UnsupportedOperation: If the model has no calibrated uncertainty.
        """
        return self._probability({**outputs, "images": pixels})

    def reconstruct(self, images: Images, *, batch_size: int = 256) -> Reconstruction:
        """Encode images and decode their embeddings.

        Raises:
            UnsupportedOperation: If the model has no decoder.
            InvalidImage: If an image cannot be used. Its ``index`` is its position in ``images``.
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
        content: Images | None = None,
        vary: Vary = "both",
        batch_size: int = 256,
    ) -> Generation:
        """Draw images from the model's prior, decode given latents, or draw new views of a thing.

        The same seed gives the same images, and the first images do not depend on ``n``.

            >>> encoder.generate(8, content=["front.png", "side.png"], seed=0)  # one thing, 8 views

        With the same seed, image i has the same style for every content. To go from one content to
        another, decode what lies between their means:

            >>> one, other = encoder.posterior([*photos, *others], group=ids).mean
            >>> encoder.generate(latents=[(1 - t) * one + t * other for t in (0, 0.25, 0.5, 1)])

        Args:
            n: The number of images to draw.
            seed: The seed, 0 or more. By default every call draws new images.
            latents: Latents to decode, float ``[N, D]`` or ``[D]``. ``n`` and ``seed`` are then
                ignored.
            content: Views of one thing, of which new views are drawn: z ~ N(ψ, s²) for the content
                ψ that these images share, see `repzoo.runtime.contents`.
            vary: What differs between the new views: the "content", as far as the images leave it
                open, the "style", or "both".
            batch_size: The number of images that are encoded or decoded at once.

        Raises:
            UnsupportedOperation: If the model has no decoder, no prior to draw from or, with
                ``content``, was not trained with SimVAE.
            InvalidImage: If an image cannot be used. Its ``index`` is its position in ``content``.
            InvalidInput: If an argument is out of range, the latents have the wrong shape, or there
                are both latents and a content.
        """
        decoder = self._require_decoder()
        if content is not None:
            if latents is not None:
                raise InvalidInput("latents and content cannot be combined")
            drawn = self._sample_views(content, n, seed, vary, batch_size)
        else:
            drawn = self.sample(n, seed=seed) if latents is None else self._as_latents(latents)
        starts = range(0, len(drawn), positive(batch_size, "batch_size"))
        inputs = ({"latents": drawn[start : start + batch_size]} for start in starts)
        decoded = [to_host(decoder.run(each)["images"]) for each in inputs]
        return Generation(_concatenate(decoded, self.config.input.shape), drawn)

    def sample(self, n: int = 1, *, seed: int | None = None) -> Floats:
        """Draw latents from the model's prior, as `generate` does before it decodes them.

        Args:
            n: The number of latents to draw.
            seed: The seed, 0 or more. By default every call draws new latents.

        Returns:
            float32 ``[N, D]``.

        Raises:
            UnsupportedOperation: If the model has no prior.
            InvalidInput: If an argument is out of range.
        """
        if self._prior is None:
            raise UnsupportedOperation(f"{self.config.name} has no prior to draw latents from")
        return sample_prior(self._prior, positive(n, "n"), _checked(seed))

    def probe(
        self, images: Images, task: str, kind: str = "linear", *, batch_size: int = 256
    ) -> Predictions:
        """Classify images with one of the model's probes.

        Raises:
            UnknownTask: If the model has no probe for this task and kind.
            InvalidImage: If an image cannot be used. Its ``index`` is its position in ``images``.
        """
        spec = self.config.probe(task, kind)
        if spec is None:
            probes = ", ".join(f"{p.task} ({p.kind})" for p in self.config.probes) or "no probes"
            raise UnknownTask(f"{self.config.name} has no probe {task} ({kind}); it has {probes}")
        probe = self._probes[spec.task, kind]
        logits = [
            to_host(probe.run(self._encode(pixels, ("embedding",)))["logits"])
            for pixels in self._chunks(images, batch_size)
        ]
        return _predictions(spec, _concatenate(logits, (len(spec.classes),)))

    def outputs(
        self,
        images: Images,
        *,
        uncertainty: bool = False,
        content: bool = False,
        batch_size: int = 256,
    ) -> dict[str, Floats]:
        """Return the encoder graph's outputs: ``embedding``, and ``log_variance`` of a posterior.

        Args:
            images: One image or many.
            uncertainty: Also return ``uncertainty``, if the model has one. See `uncertainty`.
            content: Also return ``content_mean`` and ``content_variance``, if the model has a
                content posterior.
            batch_size: The number of images that are decoded and run at once.

        Returns:
            float32 ``[N, D]`` by name, in the order of ``config.outputs``. ``uncertainty`` is
            float32 ``[N]``.

        Raises:
            InvalidImage: If an image cannot be used. Its ``index`` is its position in ``images``.
        """
        names = self.config.outputs
        more = _CONTENT if content and self._content is not None else ()
        if uncertainty and self._uncertainty is not None:
            more = (*more, "uncertainty")
        return self._outputs(images, (*names, *more), batch_size)

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
        """Return at least the named outputs of one batch, left on the device."""
        if {*names} <= {*self.config.outputs}:
            return self._encoder.run({"images": pixels}, names)
        rows = {"images": self._encoder.upload(pixels)}
        rows |= self._encoder.run(rows)
        if not {*_CONTENT}.isdisjoint(names):
            rows |= self._require_content().run(rows)
        if "uncertainty" in names:
            rows["uncertainty"] = self._probability(rows)
        return rows

    def _probability(self, rows: Mapping[str, Rows]) -> Floats:
        graph = self._require_uncertainty()
        if not {*_CONTENT}.isdisjoint(graph.inputs) and not {*_CONTENT} <= rows.keys():
            rows = {**rows, **self._require_content().run(rows)}
        return np.clip(to_host(graph.run(rows)["uncertainty"]), 0, 1)

    @property
    def most_rows(self) -> int:
        """The largest number of images that are run at once, which bounds the memory of a run."""
        return max(1, _MOST_PIXELS // (self.config.input.height * self.config.input.width))

    def _chunks(self, images: Images, batch_size: int) -> Iterator[Pixels]:
        size = min(positive(batch_size, "batch_size"), self.most_rows)
        return batches(images, self.config.input, size)

    def _require_decoder(self) -> Graph:
        if self._decoder is None:
            raise UnsupportedOperation(f"{self.config.name} has no decoder")
        return self._decoder

    def _require_content(self) -> Graph:
        if self._content is None:
            raise UnsupportedOperation(f"{self.config.name} {NO_CONTENT}")
        return self._content

    def _require_uncertainty(self) -> Graph:
        if self._uncertainty is None:
            raise UnsupportedOperation(f"{self.config.name} has no calibrated uncertainty")
        return self._uncertainty

    def _sample_views(
        self, images: Images, n: int, seed: int | None, vary: Vary, batch_size: int
    ) -> Floats:
        views, seed = self.require_views(), _checked(seed)
        outputs = self._outputs(images, ("embedding", "log_variance"), batch_size)
        if not len(outputs["embedding"]):
            raise InvalidInput("content has no images; expected one or more views of one thing")
        mean, variance = views.content(outputs["embedding"], np.exp(outputs["log_variance"]))
        return views.sample(mean[0], variance[0], positive(n, "n"), seed, vary)

    def _as_latents(self, latents: ArrayLike) -> Floats:
        dim = self.config.latent_dim
        try:
            array = np.atleast_2d(np.asarray(latents, dtype=np.float32))
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"latents are not an array of numbers: {error}") from None
        if array.ndim != 2 or array.shape[1] != dim:
            raise InvalidInput(f"latents have shape {list(array.shape)}; expected [N, {dim}]")
        if not np.isfinite(array).all():
            raise InvalidInput("latents must be finite, but contain NaN or infinity")
        return array


def unit_length(embedding: Floats) -> Floats:
    """Divide each embedding of ``[N, D]`` by its Euclidean length, unless the length is zero."""
    length = np.sqrt(np.square(embedding).sum(axis=1, keepdims=True))
    length[length == 0] = 1
    unit: Floats = embedding / length
    return unit


def _checked(seed: int | None) -> int | None:
    if seed is not None and not (isinstance(seed, (int, np.integer)) and seed >= 0):
        raise InvalidInput(f"seed is {seed!r}; expected a whole number, 0 or more")
    return seed


def _predictions(spec: ProbeSpec, logits: Floats) -> Predictions:
    if spec.multi_label:
        # The logistic function in a form that does not overflow.
        probabilities = 0.5 * (1 + np.tanh(0.5 * logits))
        several = [[spec.classes[k] for k in np.flatnonzero(row >= 0.5)] for row in probabilities]
        return Predictions(spec.classes, probabilities, several)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    best = [spec.classes[k] for k in probabilities.argmax(axis=1)]
    return Predictions(spec.classes, probabilities, best)


def _concatenate(chunks: list[Floats], shape: tuple[int, ...]) -> Floats:
    """Concatenate chunks of rows of ``shape``. Without chunks, the result has no rows."""
    if len(chunks) == 1:
        return chunks[0]
    return np.concatenate([np.empty((0, *shape), np.float32), *chunks])
