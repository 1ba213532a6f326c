"""The content that several views of one thing share, and new views of it.

**SimVAE.** Views x_1..x_J of one thing share a content ψ, and the latents of the views scatter
around it (Bizeul, Schölkopf, Allen 2024):

    z_j | ψ ~ N(ψ, s² I),      x_j | z_j ~ p(x|z),      ψ uniform, or ψ ~ N(0, I).

The encoder's q(z|x) = N(μ, diag σ²) stands for the likelihood p(x|z) as a function of z. It is
proportional to it if σ² ≪ s², where the prior hardly moves q. In the zoo's packages σ² is 4 % of s²
on CIFAR-10 and below 1 % elsewhere. Then each view says of ψ, per dimension,

    p(x_j | ψ) = ∫ p(x_j | z) N(z; ψ, s²) dz ∝ ∫ N(z; μ_j, σ_j²) N(z; ψ, s²) dz
               = N(ψ; μ_j, σ_j² + s²),

and because the views are independent given ψ, their product is the posterior:

    p(ψ | x_1..x_J) ∝ p(ψ) ∏_j N(ψ; μ_j, σ_j² + s²) = N(m, V),
    1/V = τ + Σ_j 1/(σ_j² + s²),      m = V Σ_j μ_j/(σ_j² + s²),

where τ is the prior's precision: 0 if ψ is uniform, 1 if ψ ~ N(0, I). A new view has z ~ N(ψ, s²),
so given the views seen so far z ~ N(m, V + s²).

**Content posteriors.** A package's ``content.onnx`` predicts the embedding t of a fresh view of the
thing: t | x_j ~ N(m_j, v_j). That variance has two parts, v_j = c_j + r: c_j is what x_j leaves
open about ψ, and r is the scatter of t around ψ. Errors c_j of independent images average out. The
scatter r does not, because t is one view, whatever the number of images. The package does not
know r. `product` weights by 1/v_j and returns V = 1/Σ_j (1/v_j) as the variance *of the content*.
With the weights w_j = V/v_j, which add up to one, the fused mean Σ_j w_j m_j has the error variance

    about ψ:                  Σ_j w_j² c_j      = V − r Σ_j w_j²          (V is too wide)
    about a fresh view's t:   Σ_j w_j² c_j + r  = V + r (1 − Σ_j w_j²)    (V is too narrow)

so V is exact about t for one image, and a safe bound about ψ for any number. Two assumptions
remain. The images must be degraded independently: ten copies of one file are not ten views. And
each v_j must be small next to the spread of all embeddings, because each m_j has already been drawn
towards their centre, and the product counts that J times.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from repzoo.errors import InvalidInput
from repzoo.packages.records import read_file
from repzoo.runtime.sessions import Floats

__all__ = ["Vary", "ViewModel", "group_rows", "product", "read_view_model"]

#: What differs between generated views: content and style, or only one of them.
Vary: TypeAlias = Literal["both", "style", "content"]

#: SimVAE's options where a recipe leaves them out.
_SCATTER, _PRIOR = 0.15, "uniform"
_MAX_BYTES = 2**24


@dataclass(frozen=True)
class ViewModel:
    """SimVAE's model of several views of one thing, see `repzoo.runtime.contents`."""

    #: s², the variance of views around their content.
    scatter: float
    #: τ, the precision of the content's prior around 0.
    precision: float

    def content(
        self, mean: Floats, variance: Floats, rows: NDArray[np.intp] | None = None
    ) -> tuple[Floats, Floats]:
        """Return the mean and the variance of ψ given its views: float32 ``[G, D]`` each.

        Args:
            mean: μ of each view, float32 ``[N, D]``.
            variance: σ² of each view, float32 ``[N, D]``.
            rows: The thing that each view shows, from `group_rows`. By default all show one.
        """
        if rows is None:
            rows = np.zeros(len(mean), np.intp)
        return product(mean, variance + np.float32(self.scatter), rows, self.precision)

    def sample(
        self, mean: Floats, variance: Floats, n: int, seed: int | None, vary: Vary = "both"
    ) -> Floats:
        """Draw the latents of new views of one thing.

        The same seed gives the same latents, and the first rows do not depend on ``n``. Row i has
        the same style for every thing.

        Args:
            mean: The mean of ψ, float32 ``[D]``.
            variance: Its variance, float32 ``[D]``.
            n: The number of views.
            seed: The seed, 0 or more. By default every call draws new views.
            vary: "both" draws a content ψ ~ N(m, V) and a style z − ψ ~ N(0, s²) per row. "style"
                keeps the content at m. "content" keeps the style at 0.

        Returns:
            float32 ``[n, D]``.

        Raises:
            InvalidInput: If ``vary`` is unknown.
        """
        if vary not in get_args(Vary):
            raise InvalidInput(f"vary is {vary!r}; expected one of {', '.join(get_args(Vary))}")
        # Two streams: a row's style must not depend on whether contents are drawn.
        contents, styles = (
            each.standard_normal((n, len(mean)), dtype=np.float32)
            for each in np.random.default_rng(seed).spawn(2)
        )
        of_content = np.sqrt(variance) if vary != "style" else np.zeros_like(variance)
        of_style = np.sqrt(np.float32(self.scatter)) if vary != "content" else np.float32(0)
        latents: Floats = mean + of_content * contents + of_style * styles
        return latents


def read_view_model(path: Path) -> ViewModel | None:
    """Read the model of views from a package's ``metrics.json``, which records the recipe.

    Returns:
        None if the file does not say that SimVAE trained the encoder.
    """
    try:
        recipe = json.loads(read_file(path, _MAX_BYTES))["training"]["recipe"]
        if recipe["method"] != "simvae":
            return None
        options: dict[str, Any] = recipe["options"]
        scatter = float(options.get("scatter", _SCATTER))
        precision = {"uniform": 0.0, "normal": 1.0}[options.get("prior", _PRIOR)]
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
        return None  # packages come from anyone
    return ViewModel(scatter, precision) if 0 < scatter < np.inf else None


def group_rows(group: Iterable[Hashable], count: int) -> NDArray[np.intp]:
    """Number the things that images show, in the order in which they first appear.

    Args:
        group: An id of the shown thing for each image.
        count: The number of images.

    Returns:
        int ``[count]``, 0 or more.

    Raises:
        InvalidInput: If there is not one id per image, or an id is not hashable.
    """
    numbers: dict[Hashable, int] = {}
    try:
        rows = [numbers.setdefault(each, len(numbers)) for each in group]
    except TypeError as error:
        raise InvalidInput(f"group must hold one id per image: {error}") from None
    if len(rows) != count:
        raise InvalidInput(f"group has {len(rows)} ids for {count} images; expected one per image")
    return np.asarray(rows, np.intp)


def product(
    mean: Floats, variance: Floats, rows: NDArray[np.intp], precision: float = 0.0
) -> tuple[Floats, Floats]:
    """Multiply diagonal Gaussians that belong together.

    Args:
        mean: float32 ``[N, D]``.
        variance: float32 ``[N, D]``, positive.
        rows: The row of the result that each Gaussian belongs to, int ``[N]``.
        precision: The precision of one more factor around 0.

    Returns:
        The mean and the variance of the products: float32 ``[G, D]`` each.
    """
    weights = 1 / variance.astype(np.float64)
    shape = (int(rows.max(initial=-1)) + 1, mean.shape[1])
    total, weighted = np.full(shape, precision), np.zeros(shape)
    np.add.at(total, rows, weights)
    np.add.at(weighted, rows, weights * mean)
    return (weighted / total).astype(np.float32), (1 / total).astype(np.float32)
