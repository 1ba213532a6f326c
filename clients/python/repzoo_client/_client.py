"""The client."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
from numpy.typing import ArrayLike, NDArray

from repzoo_client import _wire
from repzoo_client._results import Generation, Model, Posterior, Predictions, Reconstruction
from repzoo_client.errors import RequestTimedOut, ServerUnreachable, UnexpectedAnswer

__all__ = ["Client"]

DEFAULT_URL = "http://127.0.0.1:3000"


class Client:
    """A connection to a repzoo server, for one or many threads.

        >>> with Client() as client:
        ...     posterior = client.posterior("digit.png", model="simvae-mnist")
        ...     posterior.mean.shape
        (1, 10)

    Wherever ``images`` are taken, they are one image or an iterable of them: uint8 arrays of the
    model's own size, ``[H, W]`` or ``[H, W, C]``; or image files of any size, as paths or bytes; or
    one uint8 array ``[N, H, W, C]``. Arrays and files do not go together in one call. However many
    they are, a request carries ``batch_size`` of them.

    Every call raises, besides what it says itself:

    - `ServerUnreachable`, `RequestTimedOut`: there is no answer;
    - `ModelNotFound`: the server does not serve that model;
    - `InvalidImage`: an image is not one, with its ``index``; `InvalidRequest`: arrays have not
      the model's size; `RequestTooLarge`, `Overloaded`: the server's limits;
    - other kinds of `APIError`, see `repzoo_client.errors`;
    - TypeError, ValueError, OSError: images that cannot be sent.

    Args:
        url: the server's; by default ``REPZOO_URL``, else ``http://127.0.0.1:3000``.
        timeout: seconds that connecting, sending and waiting for the next bytes of the answer may
            take, each; None for no limit.
        api_key: sent as a bearer token; by default ``REPZOO_API_KEY``, else none.
        batch_size: images in one request; at most the server's ``max_images``.
        answers: the format of answers. "json", with base64 vectors, is for what lies between and
            lets nothing else through; reading images from it takes Pillow.

    Raises:
        ValueError: if the URL is not one of http or https, or there is no such format.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        timeout: float | None = 60.0,
        api_key: str | None = None,
        batch_size: int = 256,
        answers: _wire.Answers = "safetensors",
    ) -> None:
        self.url = (url or os.environ.get("REPZOO_URL") or DEFAULT_URL).rstrip("/")
        if not _is_web_url(self.url):
            raise ValueError(f"{self.url!r} is not an http:// or https:// URL")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: expected 1 or more")
        if answers not in ("safetensors", "json"):
            raise ValueError(f"answers is {answers!r}: expected 'safetensors' or 'json'")
        self._answers = answers
        self._batch_size = batch_size
        self._timeout = timeout
        api_key = api_key or os.environ.get("REPZOO_API_KEY")
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=timeout,
            # Servers close idle connections after 5 seconds: give them up before that, or a
            # request may meet one that is just being closed.
            limits=httpx.Limits(keepalive_expiry=3),
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. The client cannot be used afterwards."""
        self._http.close()

    def embed(
        self, images: _wire.Images, *, model: str, normalize: bool = False
    ) -> NDArray[np.float32]:
        """Embed images; with a posterior, its mean.

        Args:
            images: one image or many.
            model: name of a model that the server serves.
            normalize: divide each embedding by its Euclidean length.

        Returns:
            float32 ``[N, D]``.
        """
        options = {"model": model, "normalize": normalize}
        answers = self._send_images("embed", options, images)
        return _join(answers, "embeddings")

    def uncertainty(self, images: _wire.Images, *, model: str) -> NDArray[np.float32] | None:
        """How likely each image's nearest neighbour is a wrong one: a calibrated probability.

        The config of `model` says in which gallery, and what wrong is.

        Returns:
            float32 ``[N]`` in [0, 1]; None if the model has no calibrated uncertainty.
        """
        return _calibrated(self._send_images("embed", {"model": model}, images))

    def posterior(self, images: _wire.Images, *, model: str) -> Posterior:
        """The posterior over the latents of each image.

        Raises:
            UnsupportedOperation: if the model has no posterior.
        """
        answers = self._send_images("posterior", {"model": model}, images)
        return Posterior(_join(answers, "mean"), _join(answers, "variance"), _calibrated(answers))

    def reconstruct(self, images: _wire.Images, *, model: str) -> Reconstruction:
        """Encode images and decode them again.

        Raises:
            UnsupportedOperation: if the model has no decoder.
        """
        answers = self._send_images("reconstruct", {"model": model}, images)
        return Reconstruction(_join(answers, "images"), _join(answers, "error"))

    def generate(
        self,
        n: int = 1,
        *,
        model: str,
        seed: int | None = None,
        latents: ArrayLike | None = None,
    ) -> Generation:
        """Draw images from the model's prior, or decode given latents, in one request.

        Args:
            n: how many to draw.
            model: name of a model that the server serves.
            seed: the same seed gives the same images; by default every call draws anew.
            latents: float ``[N, D]`` or ``[D]`` to decode; ``n`` and ``seed`` then mean nothing.

        Raises:
            UnsupportedOperation: if the model has no decoder.
        """
        options: dict[str, Any] = {"model": model}
        if latents is None:
            payload = _wire.Payload()
            options |= {"n": n, "seed": seed}
        else:
            payload = _wire.latents_payload(latents)
        answer = self._send("POST", "generate", **payload.request(options, self._answers))
        return Generation(answer["images"], answer["latents"])

    def probe(
        self, images: _wire.Images, task: str, kind: str = "linear", *, model: str
    ) -> Predictions:
        """Classify images with one of the model's probes.

        Raises:
            UnknownTask: if the model has no probe for this task and kind.
        """
        options = {"model": model, "task": task, "kind": kind}
        answers = self._send_images("probe", options, images)
        return Predictions(
            tuple(_fact(answers[0], "classes")),
            _join(answers, "probabilities"),
            [label for answer in answers for label in _fact(answer, "labels")],
        )

    def models(self) -> list[Model]:
        """The models that the server serves."""
        return [_model(entry) for entry in _fact(self._send("GET", "models"), "models")]

    def model(self, name: str) -> Model:
        """One of the models that the server serves.

        Raises:
            ModelNotFound: if it does not serve it.
        """
        return _model(self._send("GET", f"models/{quote(name, safe='')}").facts)

    def _send_images(
        self, operation: str, options: dict[str, Any], images: _wire.Images
    ) -> list[_wire.Answer]:
        return [
            self._send(
                "POST",
                operation,
                first=i * self._batch_size,
                **payload.request(options, self._answers),
            )
            for i, payload in enumerate(_wire.batches(images, self._batch_size))
        ]

    def _send(self, method: str, path: str, *, first: int = 0, **request: Any) -> _wire.Answer:
        """Send one request; ``first`` is the place of its first image among those of the call."""
        try:
            response = self._http.request(method, f"{self.url}/{path}", **request)
        except httpx.ConnectError as error:
            raise ServerUnreachable(
                f"no server answers at {self.url} ({error}): start one with `zoo serve`, or say "
                f"where it is with REPZOO_URL"
            ) from error
        except httpx.TimeoutException as error:
            raise RequestTimedOut(
                f"{self.url}/{path} did not answer within {self._timeout:g} seconds"
            ) from error
        except httpx.RequestError as error:
            raise ServerUnreachable(f"the connection to {self.url} broke: {error}") from error
        return _wire.read(response, first)


def _is_web_url(text: str) -> bool:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    return url.scheme in ("http", "https") and bool(url.host)


def _calibrated(answers: list[_wire.Answer]) -> NDArray[np.float32] | None:
    """Float32 ``[N]`` of all answers, if the model has an uncertainty."""
    return _join(answers, "uncertainty") if "uncertainty" in answers[0].tensors else None


def _join(answers: list[_wire.Answer], name: str) -> NDArray[Any]:
    return np.concatenate([answer[name] for answer in answers])


def _fact(answer: _wire.Answer, name: str) -> Any:
    try:
        return answer.facts[name]
    except (KeyError, TypeError):
        raise UnexpectedAnswer(f"the answer has no {name}") from None


def _model(entry: Any) -> Model:
    try:
        return Model(
            name=entry["name"],
            revision=entry["revision"],
            provider=entry["provider"],
            capabilities=tuple(entry["capabilities"]),
            limits=entry["limits"],
            config=entry["config"],
        )
    except (KeyError, TypeError) as error:
        raise UnexpectedAnswer(f"the answer describes no model: {error!r}") from None
