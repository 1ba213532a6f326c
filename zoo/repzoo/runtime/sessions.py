"""Graphs on ONNX Runtime: where they run, and that they are what a package's config says."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from repzoo.errors import InvalidInput, MissingExtra, PackageError

# ONNX Runtime 1.29 and later tell Microsoft about every session on Linux too, names of model files
# included, unless this is set when it is imported. Whoever wants that can set it to "0".
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
try:
    import onnxruntime as ort
except ImportError as error:
    raise MissingExtra("running a model", "runtime", error) from error

__all__ = [
    "DEVICES",
    "Floats",
    "Graph",
    "Provider",
    "Rows",
    "Runtime",
    "Tensor",
    "positive",
    "provider_class",
    "to_host",
]

Floats: TypeAlias = NDArray[np.float32]

#: What `repzoo.load` takes; None in its place means the best one that is really there.
Provider: TypeAlias = Literal["cpu", "cuda"]


def provider_class(provider: str) -> Provider:
    """The class of an ONNX Runtime execution provider that tolerances are stated for."""
    return "cuda" if provider == "CUDAExecutionProvider" else "cpu"


#: A tensor's element type in ONNX Runtime's words, and its shape; None is any number of rows.
Tensor: TypeAlias = tuple[str, tuple[int | None, ...]]


#: The device, in ONNX Runtime's words, where a provider's tensors stay from one graph to the next.
#: Providers that are not named here work on NumPy's own memory.
DEVICES = {"CUDAExecutionProvider": "cuda"}


class OnDevice(Protocol):
    """Rows in a device's memory."""

    def numpy(self) -> NDArray[Any]:
        """A copy in this process's memory."""


#: What a graph takes and gives.
Rows: TypeAlias = NDArray[Any] | OnDevice


def to_host(rows: Rows) -> Floats:
    """What a graph gave, as an array; copied back if it is on a device."""
    return rows if isinstance(rows, np.ndarray) else rows.numpy()


class Graph:
    """One ONNX graph, checked to be what the config says."""

    def __init__(
        self,
        session: ort.InferenceSession,
        path: Path,
        inputs: dict[str, Tensor],
        outputs: dict[str, Tensor],
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
        self._device = DEVICES.get(self.provider)
        self._session = session
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)

    def upload(self, rows: Rows) -> Rows:
        """``rows`` where the graph reads them; for those that go into several graphs."""
        if self._device is None or not isinstance(rows, np.ndarray):
            return rows
        value: OnDevice = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(rows), self._device)
        return value

    def run(
        self, rows: Mapping[str, Rows], names: tuple[str, ...] | None = None
    ) -> dict[str, Rows]:
        """Outputs by name, those named or all, left where they were computed.

        Args:
            rows: of every input, by its name; what has other names is left alone.
            names: of the outputs.
        """
        names = names or self._outputs
        inputs = {name: self.upload(rows[name]) for name in self._inputs}
        if self._device is None:
            return dict(zip(names, self._session.run(names, inputs), strict=True))
        # A binding is not for several threads; each call has its own. Copies to the device and
        # runs return when they are done, so that no stream is waited for here.
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name in names:
            binding.bind_output(name, self._device)
        self._session.run_with_iobinding(binding)
        return dict(zip(names, binding.get_outputs(), strict=True))


def _shapes_agree(found: list[int | str | None], expected: tuple[int | None, ...]) -> bool:
    # A graph may leave open what we know (a name instead of a number), but must not fix the rows.
    return len(found) == len(expected) and all(
        not isinstance(there, int) or there == wanted
        for there, wanted in zip(found, expected, strict=True)
    )


class Runtime:
    """Makes the sessions of one model, all with the same provider."""

    def __init__(self, provider: Provider | None, threads: int | None) -> None:
        self._wanted = provider
        self._options = ort.SessionOptions()
        self._options.log_severity_level = 3  # errors: warnings speak to authors of graphs
        # Idle threads would spin for work. A model has one pool per graph, and they would spin
        # against each other: for one 64x64 image that cost 12 ms of CPU instead of 5.
        self._options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            self._options.intra_op_num_threads = positive(threads, "threads")
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


def positive(value: int, name: str) -> int:
    """``value``, or InvalidInput unless it is a whole number, 1 or more."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InvalidInput(f"{name} is {value!r}; expected a whole number, 1 or more")
    return int(value)
