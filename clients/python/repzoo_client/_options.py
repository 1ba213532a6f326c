"""How a call over many images is carried out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict

from repzoo_client._chunks import Chunk

__all__ = ["Options", "Progress", "Run"]

#: Called with how many images are done, and of how many; None: not known.
Progress: TypeAlias = Callable[[int, int | None], object]


class Options(TypedDict, total=False):
    """What every call that takes images also takes.

    - ``on_error``: "raise", the default, ends the call at the first image that is none or cannot be
      read. "collect" goes on: the rows of such images are NaN (a reconstruction is black, a label
      empty), all others are as ever, and row i is image i.
    - ``errors``: a dict that is filled, with "collect", with the error of each such image by its
      place among all.
    - ``progress``: True for a bar on stderr (takes tqdm), or a function that is called with how
      many images are done and of how many (None where that is not known).
    - ``deadline``: seconds for the whole call, retries and waits included; by default the client's.
    """

    on_error: Literal["raise", "collect"]
    errors: dict[int, Exception]
    progress: bool | Progress
    deadline: float | None


@dataclass(frozen=True)
class Run:
    """`Options`, checked, with their defaults.

    Raises:
        ValueError: if one has no such value.
        ImportError: if a bar is asked for and tqdm is not installed.
    """

    on_error: Literal["raise", "collect"] = "raise"
    errors: dict[int, Exception] | None = None
    progress: bool | Progress = False
    deadline: float | None = None

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "collect"):
            raise ValueError(f"on_error is {self.on_error!r}: expected 'raise' or 'collect'")
        if self.errors is not None and not self.collect:
            raise ValueError("errors are collected with on_error='collect' only")
        if self.deadline is not None and not self.deadline > 0:
            raise ValueError(f"deadline is {self.deadline}: expected seconds, more than 0")

    @property
    def collect(self) -> bool:
        """Whether a bad image does not end the call."""
        return self.on_error == "collect"

    def done(self, chunk: Chunk, advance: Callable[[int], object]) -> None:
        """Tell the caller of a chunk that is answered."""
        if self.errors is not None:
            self.errors.update(chunk.errors)
        advance(chunk.size)

    @contextmanager
    def showing(self, total: int | None) -> Iterator[Callable[[int], object]]:
        """Gives the function to call with how many more images are done."""
        if self.progress is True:
            try:
                from tqdm import tqdm
            except ImportError as error:
                raise ImportError("progress=True shows a bar by tqdm: pip install tqdm") from error
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
