"""The local runtime: a model package on ONNX Runtime."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repzoo.arrays import read_arrays
from repzoo.config import ModelConfig, ProbeSpec, UncertaintySpec
from repzoo.errors import (
    InvalidInput,
    MissingExtra,
    PackageError,
    UnknownTask,
    UnsupportedOperation,
)
from repzoo.images import Images, Pixels, as_pixels, batches

# ONNX Runtime 1.29 and later tell Microsoft about every session on Linux too, names of model files
# included, unless this is set when it is imported. Whoever wants that can set it to "0".
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
try:
    import onnxruntime as ort  # type: ignore[import-untyped]
except ImportError as error:
    raise MissingExtra("running a model", "runtime", error) from error

__all__ = [
    "Encoder",
    "Generation",
    "Posterior",
    "Predictions",
    "Provider",
    "Reconstruction",
    "provider_class",
    "unit_length",
]

Floats: TypeAlias = NDArray[np.float32]

#: What `repzoo.load` takes; None in its place means the best one that is really there.
Provider: TypeAlias = Literal["cpu", "cuda"]


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
    images, paths or an encoded file's bytes, see `repzoo.images.as_pixels`. They are decoded and
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

        runtime = _Runtime(provider, threads)
        latent: _Tensor = "tensor(float)", (None, config.latent_dim)

        def graph(file: str, inputs: dict[str, _Tensor], outputs: dict[str, _Tensor]) -> _Graph:
            return _Graph(runtime.session(path / file), path / file, inputs, outputs)

        self._encoder = graph(
            "encoder.onnx",
            {"images": ("tensor(uint8)", (None, *config.input.shape))},
            dict.fromkeys(config.outputs, latent),
        )
        self._decoder = None
        if config.has_decoder:
            images: _Tensor = "tensor(float)", (None, *config.input.shape)
            self._decoder = graph("decoder.onnx", {"latents": latent}, {"images": images})
        self._probes = {}
        for spec in config.probes:
            logits: _Tensor = "tensor(float)", (None, len(spec.classes))
            head = graph(spec.file, {"embedding": latent}, {"logits": logits})
            self._probes[spec.task, spec.kind] = head
        self._uncertainty = None
        if config.uncertainty is not None:
            pixels: _Tensor = "tensor(uint8)", (None, *config.input.shape)
            self._uncertainty = graph(
                "uncertainty.onnx",
                {n: pixels if n == "images" else latent for n in config.uncertainty.inputs},
                {"uncertainty": ("tensor(float)", (None,))},
            )
        self._prior = _Prior.read(path / "prior.npz", config.latent_dim)
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
        (embedding,) = self._encode(images, ("embedding",), batch_size)
        return unit_length(embedding) if normalize else embedding

    def posterior(self, images: Images, *, batch_size: int = 256) -> Posterior:
        """The posterior over the latents of each image.

        Raises:
            UnsupportedOperation: if the model has no posterior.
            InvalidImage: if an image cannot be used; its ``index`` is its place in ``images``.
        """
        if not self.config.has_posterior:
            raise UnsupportedOperation(f"{self.config.name} has no posterior")
        mean, log_variance, uncertainty = [], [], []
        for pixels in self._chunks(images, batch_size):
            outputs = self.outputs(pixels, batch_size=batch_size)
            mean.append(outputs["embedding"])
            log_variance.append(outputs["log_variance"])
            if self._uncertainty is not None:
                uncertainty.append(self.uncertainty_of(outputs, pixels))
        shape = (self.config.latent_dim,)
        return Posterior(
            _concatenate(mean, shape),
            np.exp(_concatenate(log_variance, shape)),
            None if self._uncertainty is None else _concatenate(uncertainty, ()),
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
        chunks = [
            self.uncertainty_of(self.outputs(pixels, batch_size=batch_size), pixels)
            for pixels in self._chunks(images, batch_size)
        ]
        return _concatenate(chunks, ())

    def uncertainty_of(self, outputs: Mapping[str, Floats], pixels: Pixels) -> Floats:
        """The same for images whose `outputs` are at hand.

        Args:
            outputs: of the encoder, float32 ``[N, D]`` by name.
            pixels: the preprocessed images that gave them, uint8 ``[N, H, W, C]``.

        Raises:
            UnsupportedOperation: if the model has no calibrated uncertainty.
        """
        graph, spec = self._require_uncertainty()
        there: dict[str, NDArray[Any]] = {**outputs, "images": pixels}
        (probability,) = graph.run_all({name: there[name] for name in spec.inputs})
        return np.clip(probability, 0, 1)

    def reconstruct(self, images: Images, *, batch_size: int = 256) -> Reconstruction:
        """Encode images and decode them again.

        Raises:
            UnsupportedOperation: if the model has no decoder.
            InvalidImage: if an image cannot be used; its ``index`` is its place in ``images``.
        """
        decoder = self._require_decoder()
        decoded, errors = [], []
        for pixels in self._chunks(images, batch_size):
            (embedding,) = self._encoder.run(pixels, ("embedding",))
            (output,) = decoder.run(embedding)
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
        starts = range(0, len(drawn), _positive(batch_size, "batch_size"))
        decoded = [decoder.run(drawn[start : start + batch_size])[0] for start in starts]
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
        return self._prior.sample(_positive(n, "n"), seed)

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
        (embedding,) = self._encode(images, ("embedding",), batch_size)
        (logits,) = self._probes[task, kind].run(embedding)
        return _predictions(spec, logits)

    def outputs(self, images: Images, *, batch_size: int = 256) -> dict[str, Floats]:
        """The encoder graph's own outputs: ``embedding`` and, with a posterior, ``log_variance``.

        Returns:
            float32 ``[N, D]`` by name, in the order of ``config.outputs``.
        """
        names = self.config.outputs
        return dict(zip(names, self._encode(images, names, batch_size), strict=True))

    def _encode(self, images: Images, names: tuple[str, ...], batch_size: int) -> list[Floats]:
        chunks = self._chunks(images, batch_size)
        outputs = [self._encoder.run(pixels, names) for pixels in chunks]
        shape = (self.config.latent_dim,)
        return [_concatenate([chunk[i] for chunk in outputs], shape) for i in range(len(names))]

    def _chunks(self, images: Images, batch_size: int) -> Iterator[Pixels]:
        return batches(images, self.config.input, _positive(batch_size, "batch_size"))

    def _require_decoder(self) -> _Graph:
        if self._decoder is None:
            raise UnsupportedOperation(f"{self.config.name} has no decoder")
        return self._decoder

    def _require_uncertainty(self) -> tuple[_Graph, UncertaintySpec]:
        if self._uncertainty is None or self.config.uncertainty is None:
            raise UnsupportedOperation(f"{self.config.name} has no calibrated uncertainty")
        return self._uncertainty, self.config.uncertainty

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


def provider_class(provider: str) -> Provider:
    """The class of an ONNX Runtime execution provider that tolerances are stated for."""
    return "cuda" if provider == "CUDAExecutionProvider" else "cpu"


#: A tensor's element type in ONNX Runtime's words, and its shape; None is any number of rows.
_Tensor: TypeAlias = tuple[str, tuple[int | None, ...]]


class _Graph:
    """One ONNX graph, checked to be what the config says."""

    def __init__(
        self,
        session: ort.InferenceSession,
        path: Path,
        inputs: dict[str, _Tensor],
        outputs: dict[str, _Tensor],
    ) -> None:
        found_inputs = {node.name: node for node in session.get_inputs()}
        found_outputs = {node.name: node for node in session.get_outputs()}
        if found_inputs.keys() != inputs.keys():
            raise PackageError(f"{path}: inputs are {list(found_inputs)}; expected {list(inputs)}")
        for name, (kind, shape) in (inputs | outputs).items():
            node = (found_inputs | found_outputs).get(name)
            if node is None:
                raise PackageError(f"{path}: there is no output {name!r}")
            if node.type != kind or not _shapes_agree(node.shape, shape):
                raise PackageError(
                    f"{path}: {name!r} is {node.type} {node.shape}; expected {kind} {list(shape)}"
                )
        self.provider: str = session.get_providers()[0]
        self._session = session
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)

    def run(self, rows: NDArray[Any], names: tuple[str, ...] | None = None) -> list[Floats]:
        """The named outputs, by default all of them, for ``rows`` of the one input."""
        (name,) = self._inputs
        return self.run_all({name: rows}, names)

    def run_all(
        self, rows: Mapping[str, NDArray[Any]], names: tuple[str, ...] | None = None
    ) -> list[Floats]:
        """The same for rows of every input, by its name."""
        outputs: list[Floats] = self._session.run(names or self._outputs, dict(rows))
        return outputs


def _shapes_agree(found: list[int | str | None], expected: tuple[int | None, ...]) -> bool:
    # A graph may leave open what we know (a name instead of a number), but must not fix the rows.
    return len(found) == len(expected) and all(
        not isinstance(there, int) or there == wanted
        for there, wanted in zip(found, expected, strict=True)
    )


class _Prior(NamedTuple):
    """``prior.npz``: a mixture of diagonal Gaussians."""

    weights: Floats  # [K]
    means: Floats  # [K, D]
    scales: Floats  # [K, D], standard deviations

    @classmethod
    def read(cls, path: Path, dim: int) -> _Prior | None:
        if not path.exists():
            return None
        arrays = read_arrays(path)
        if arrays.keys() != set(cls._fields):
            raise PackageError(f"{path} holds {sorted(arrays)}; expected {sorted(cls._fields)}")
        prior = cls(**arrays)
        shape = (len(prior.weights), dim)
        if (
            prior.weights.ndim != 1
            or len(prior.weights) == 0
            or prior.means.shape != shape
            or prior.scales.shape != shape
            or not all(array.dtype == np.float32 and np.isfinite(array).all() for array in prior)
            or not (prior.weights >= 0).all()
            or not prior.weights.sum() > 0
            or not (prior.scales >= 0).all()
        ):
            raise PackageError(f"{path} is not a mixture of Gaussians over {dim} latents")
        return prior

    def sample(self, n: int, seed: int | None) -> Floats:
        # Two streams, so that the first rows do not depend on how many are drawn.
        choices, noise = np.random.default_rng(seed).spawn(2)
        edges = np.cumsum(self.weights, dtype=np.float64)
        component = np.searchsorted(edges[:-1], choices.random(n) * edges[-1], side="right")
        draws = noise.standard_normal((n, self.means.shape[1]), dtype=np.float32)
        latents: Floats = self.means[component] + self.scales[component] * draws
        return latents


class _Runtime:
    """Makes the sessions of one model, all with the same provider."""

    def __init__(self, provider: Provider | None, threads: int | None) -> None:
        self._wanted = provider
        self._options = ort.SessionOptions()
        self._options.log_severity_level = 3  # errors: warnings speak to authors of graphs
        # Idle threads would spin for work. A model has one pool per graph, and they would spin
        # against each other: for one 64x64 image that cost 12 ms of CPU instead of 5.
        self._options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            self._options.intra_op_num_threads = _positive(threads, "threads")
        self._providers: list[Any] = ["CPUExecutionProvider"]
        if provider not in (None, "cpu", "cuda"):
            raise InvalidInput(f"provider is {provider!r}; expected 'cpu', 'cuda' or None")
        if provider == "cpu":
            return
        if "CUDAExecutionProvider" in ort.get_available_providers() and _cuda_devices() > 0:
            # TF32 would cost the last digits that golden vectors check. An exhaustive search for
            # algorithms, the default, would start anew for every number of rows.
            settings = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
            self._providers.insert(0, ("CUDAExecutionProvider", settings))
            with redirect_stdout(sys.stderr):  # it prints what it does not find
                ort.preload_dlls()
        elif provider == "cuda":
            raise InvalidInput("provider 'cuda': there is no GPU, or onnxruntime lacks CUDA")

    def session(self, path: Path) -> ort.InferenceSession:
        try:
            # By path: a graph can then name files of its own package at most as external data.
            # From memory it could name any below the working directory.
            session = ort.InferenceSession(str(path), self._options, self._providers)
        except Exception as error:  # the runtime's own kinds, none of them public
            raise PackageError(f"{path} is not a graph that can be run: {error}") from error
        session.disable_fallback()
        in_use = session.get_providers()[0]
        if self._wanted == "cuda" and in_use != "CUDAExecutionProvider":
            raise InvalidInput(
                "provider 'cuda': onnxruntime cannot load its CUDA libraries, see above; "
                "pip install 'onnxruntime-gpu[cuda,cudnn]' brings them along"
            )
        return session


@cache
def _cuda_devices() -> int:
    """How many GPUs the CUDA driver shows to this process; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


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


def _positive(value: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InvalidInput(f"{name} is {value!r}; expected a whole number, 1 or more")
    return int(value)
