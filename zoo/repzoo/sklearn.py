"""An encoder as a transformer of scikit-learn.

>>> from repzoo.sklearn import Embedder
>>> from sklearn.linear_model import LogisticRegression
>>> from sklearn.pipeline import make_pipeline
>>> classifier = make_pipeline(Embedder("simclr-cifar10"), LogisticRegression())
>>> classifier.fit(["ship.png", "truck.png"], ["ship", "truck"])
"""

from __future__ import annotations

import os
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from repzoo.errors import MissingExtra, PackageError, UnsupportedOperation
from repzoo.loading import load
from repzoo.runtime.encoder import NO_CONTENT, Encoder
from repzoo.runtime.images import Images

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise MissingExtra("repzoo.sklearn", "sklearn", error) from error

__all__ = ["Embedder"]


class Embedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turn images into embeddings.

    ``fit`` only loads the model: there is nothing to learn. Copies and pickles hold the name and
    the revision of the model, not its weights, and load that revision again on first use.

    Args:
        model: The argument of `repzoo.load`.
        hub: The hub of a model that is given by name.
        robust: Embed by the content mean, which undoes blur, noise and other degradations.
        normalize: Divide each embedding by its Euclidean length.
        batch_size: The number of images that are decoded and run at once.

    Attributes:
        revision_: The sha256 of the model's manifest.
        latent_dim_: D, the number of dimensions of an embedding.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "simvae-mnist",
        *,
        hub: str | None = None,
        robust: bool = False,
        normalize: bool = False,
        batch_size: int = 256,
    ) -> None:
        self.model = model
        self.hub = hub
        self.robust = robust
        self.normalize = normalize
        self.batch_size = batch_size

    def fit(self, X: Images, y: object = None) -> Self:  # noqa: N803
        """Load the model. The images and labels are not used.

        Raises:
            UnsupportedOperation: If ``robust`` is set and the model has no content posterior.
            RepzooError: Like `repzoo.load`.
        """
        encoder = load(self.model, hub=self.hub)
        if self.robust and encoder.config.content is None:
            raise UnsupportedOperation(f"{encoder.config.name} {NO_CONTENT}")
        self._encoder: Encoder | None = encoder
        self.revision_ = encoder.revision
        self.latent_dim_ = encoder.config.latent_dim
        return self

    def transform(self, X: Images) -> NDArray[np.float32]:  # noqa: N803
        """Embed N images.

        Args:
            X: Paths, encoded bytes, Pillow images or arrays; or uint8 ``[N, H, W, C]``.

        Returns:
            float32 ``[N, D]``.

        Raises:
            NotFittedError: If ``fit`` was not called.
            InvalidImage: If an image cannot be used. Its ``index`` is its position in ``X``.
            PackageError: If a copy finds another revision of the model than the one it was made of.
        """
        check_is_fitted(self, "revision_")
        if self._encoder is None:
            encoder = load(self.model, hub=self.hub)
            if encoder.revision != self.revision_:
                raise PackageError(
                    f"{self.model} is at revision {encoder.revision[:12]} now, but this Embedder "
                    f"was fitted with {self.revision_[:12]}: fit it again, or name the revision, "
                    f"{encoder.config.name}@sha256:{self.revision_}"
                )
            self._encoder = encoder
        embeddings: NDArray[np.float32] = self._encoder.embed(
            X, normalize=self.normalize, robust=self.robust, batch_size=self.batch_size
        )
        return embeddings

    @property
    def _n_features_out(self) -> int:
        return self.latent_dim_

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        if "_encoder" in state:
            state["_encoder"] = None
        return state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True  # paths
        tags.no_validation = True
        return tags
