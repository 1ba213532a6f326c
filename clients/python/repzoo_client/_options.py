"""Options of calls over many images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict

from repzoo_client._chunks import Chunk

__all__ = ["CheckedOptions", "Distance", "Metric", "Options", "Progress"]

#: Called with the number of images done and the total, which is None if it is not known.
Progress: TypeAlias = Callable[[int, int | None], object]

#: The metrics of a search, see `repzoo_client.retrieval.PosteriorIndex.search`.
Metric: TypeAlias = Literal["mean", "w2", "csd", "content", "trusted", "robust"]

#: The distance that a model recommends, which is the metric "mean" of its index.
Distance: TypeAlias = Literal["euclidean", "cosine"]


class Options(TypedDict, total=False):
    """Options of every call that takes images.

    - ``on_error``: "raise" (the default) ends the call at the first image that cannot be read or
      decoded. "collect" continues: the rows of such images are NaN, their reconstructions are
      black and their labels are empty. Row i always belongs to image i.
    - ``errors``: A dict that "collect" fills with the error of each such image, by the image's
      position in the call.
    - ``progress``: True shows a bar on stderr, which needs tqdm. A function is called with the
      number of images done and the total, which is None if it is not known.
    - ``deadline``: The number of seconds for the whole call, including retries and waits. The
      default is the client's deadline.
    """

    on_error: Literal["raise", "collect"]
    errors: dict[int, Exception]
    progress: bool | Progress
    deadline: float | None


@dataclass(frozen=True)
class CheckedOptions:
    """`Options` with their defaults, checked.

    Raises:
        ValueError: If an option has an invalid value.
    """

    on_error: Literal["raise", "collect"] = "raise"
    errors: dict[int, Exception] | None = None
    progress: bool | Progress = False
    deadline: float | None = None

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "collect"):
            raise ValueError(f"on_error is {self.on_error!r}: expected 'raise' or 'collect'")
        if self.errors is not None and not self.collect:
            raise ValueError("errors needs on_error='collect'")
        if self.deadline is not None and not self.deadline > 0:
            raise ValueError(f"deadline is {self.deadline}: expected more than 0 seconds")

    @property
    def collect(self) -> bool:
        """Whether the call continues after an image that fails."""
        return self.on_error == "collect"

    def done(self, chunk: Chunk, advance: Callable[[int], object]) -> None:
        """Report a chunk that was answered."""
        if self.errors is not None:
            self.errors.update(chunk.errors)
        advance(chunk.size)

    @contextmanager
    def showing(self, total: int | None) -> Iterator[Callable[[int], object]]:
        """Show progress; yield a function that takes the number of images done since its last call.

        Raises:
            ImportError: If a bar is asked for and tqdm is not installed.
        """
        if self.progress is True:
            try:
                from tqdm import tqdm
            except ImportError as error:
                raise ImportError("progress=True needs tqdm: pip install tqdm") from error
            with tqdm(total=total, unit="image", unit_scale=True) as bar:
                yield bar.update
            return
        done = 0

        def advance(more: int) -> None:
            nonlocal done
            done += more
            if callable(self.progress):
                self.progress(done, total)

        yield advance
