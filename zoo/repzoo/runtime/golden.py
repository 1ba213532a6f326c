"""Golden vectors: inputs and the outputs that a package must reproduce on every machine.

``golden.npz`` holds these arrays, without pickle:

| array | content |
| --- | --- |
| ``inputs`` | uint8 ``[N, H, W, C]``: pixels of the model's input size |
| ``files.0`` ... | uint8 ``[bytes]``: encoded image files of odd sizes and modes |
| ``files.0.pixels`` ... | uint8 ``[H, W, C]``: the exact result of preprocessing each file |
| ``outputs.embedding`` | float32 ``[N + F, D]``: for the inputs, then for the F files |
| ``outputs.log_variance`` | the same, if the model has a posterior |
| ``outputs.uncertainty`` | float32 ``[N + F]``, if the model has a calibrated uncertainty |
| ``outputs.content_mean`` | float32 ``[N + F, D]``, if the model has a content posterior |
| ``outputs.content_variance`` | the same |
| ``latents`` | float32 ``[M, D]``, if the model has a decoder |
| ``outputs.images`` | float32 ``[M, H, W, C]``: the images decoded from ``latents`` |
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from repzoo.errors import GoldenMismatch, InvalidImage, PackageError
from repzoo.packages.arrays import read_arrays, write_arrays
from repzoo.packages.config import ModelConfig
from repzoo.runtime.encoder import Encoder
from repzoo.runtime.images import Pixels
from repzoo.runtime.sessions import Floats, provider_class

__all__ = ["GOLDEN", "Deviation", "check_golden", "write_golden"]

GOLDEN = "golden.npz"


class Deviation(NamedTuple):
    """The deviation of one output from its golden values."""

    output: str
    #: The largest absolute difference, or infinity if an output is not finite.
    largest: float
    #: The limit in the config for this output and provider.
    tolerance: float


def write_golden(
    path: str | os.PathLike[str],
    pixels: Pixels,
    files: Sequence[bytes] = (),
    latents: Floats | None = None,
) -> None:
    """Run the package in the folder ``path`` on the CPU and record its outputs.

    The folder must contain ``config.json`` and the graphs. Call
    `repzoo.packages.package.write_manifest` afterwards.

    Args:
        path: The package's folder.
        pixels: uint8 ``[N, H, W, C]`` of the model's input size, with N at least 1.
        files: Encoded image files of any size and mode.
        latents: float32 ``[M, D]`` to decode. Required if and only if the model has a decoder.

    Raises:
        PackageError: If the package cannot be run, an output is not finite, or the config states no
            tolerance for an output on the CPU.
        InvalidImage: If a file is not an image.
    """
    path = Path(path)
    config = ModelConfig.read(path / "config.json")
    encoder = Encoder(path, config, provider="cpu")
    if pixels.dtype != np.uint8 or pixels.shape[1:] != config.input.shape or not len(pixels):
        raise PackageError(
            f"golden inputs are {pixels.dtype} {list(pixels.shape)}; expected uint8 "
            f"[N, {', '.join(map(str, config.input.shape))}]"
        )
    if config.has_decoder != (latents is not None):
        raise PackageError("golden latents are required if and only if the model has a decoder")

    arrays: dict[str, NDArray[Any]] = {"inputs": pixels}
    for number, file in enumerate(files):
        arrays[f"files.{number}"] = np.frombuffer(file, np.uint8)
        arrays[f"files.{number}.pixels"] = encoder.preprocess(file)[0]
    if latents is not None:
        arrays["latents"] = np.ascontiguousarray(latents, np.float32)
    for output, values in _outputs(encoder, arrays).items():
        if not np.isfinite(values).all():
            raise PackageError(f"{path}: {output} is not finite for all golden inputs")
        _tolerance(config, output, encoder.provider)
        arrays[f"outputs.{output}"] = values
    write_arrays(path / GOLDEN, arrays)


def check_golden(encoder: Encoder) -> list[Deviation]:
    """Compare an encoder's outputs with the golden vectors of its package.

    Returns:
        The deviation of each output. All are within the config's tolerances.

    Raises:
        GoldenMismatch: If preprocessing gives different pixels or an output exceeds its tolerance.
        PackageError: If the golden vectors cannot be read or are incomplete.
    """
    path = encoder.path / GOLDEN
    arrays = read_arrays(path)
    try:
        _check_preprocessing(encoder, arrays, path)
        deviations = []
        for output, values in _outputs(encoder, arrays).items():
            golden = arrays[f"outputs.{output}"]
            if golden.shape != values.shape:
                shapes = f"has shape {list(values.shape)}; expected {list(golden.shape)}"
                raise GoldenMismatch(f"{path}: {output} {shapes}")
            tolerance = _tolerance(encoder.config, output, encoder.provider)
            largest = float(np.max(np.abs(values - golden), initial=0))
            deviations.append(
                Deviation(output, largest if np.isfinite(largest) else np.inf, tolerance)
            )
    except KeyError as error:
        raise PackageError(f"{path} has no array {error}") from None
    exceeded = [each for each in deviations if not each.largest <= each.tolerance]
    if exceeded:
        listing = ", ".join(
            f"{each.output} is off by {each.largest:.3g} (tolerance {each.tolerance:.3g})"
            for each in exceeded
        )
        raise GoldenMismatch(f"{encoder.path} on {encoder.provider}: {listing}")
    return deviations


def _check_preprocessing(encoder: Encoder, arrays: dict[str, NDArray[Any]], path: Path) -> None:
    for number in _file_numbers(arrays):
        golden = arrays[f"files.{number}.pixels"]
        try:
            pixels = encoder.preprocess(arrays[f"files.{number}"].tobytes())[0]
        except InvalidImage as error:
            raise GoldenMismatch(f"{path}: files.{number}: {error.detail}") from error
        if not np.array_equal(pixels, golden):
            raise GoldenMismatch(
                f"{path}: preprocessing files.{number} does not give the golden pixels"
            )


def _outputs(encoder: Encoder, arrays: dict[str, NDArray[Any]]) -> dict[str, Floats]:
    from_files = [arrays[f"files.{number}.pixels"] for number in _file_numbers(arrays)]
    pixels = np.concatenate([arrays["inputs"], *(each[None] for each in from_files)])
    outputs = encoder.outputs(pixels, uncertainty=True, content=True)
    if encoder.config.has_decoder:
        outputs["images"] = encoder.generate(latents=arrays["latents"]).images
    return outputs


def _file_numbers(arrays: dict[str, NDArray[Any]]) -> list[int]:
    return list(itertools.takewhile(lambda number: f"files.{number}" in arrays, itertools.count()))


def _tolerance(config: ModelConfig, output: str, provider: str) -> float:
    kind = provider_class(provider)
    try:
        return config.tolerances[output][kind]
    except KeyError:
        raise PackageError(
            f"config.json of {config.name} has no tolerance for {output} on {kind}"
        ) from None
