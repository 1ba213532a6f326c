"""ONNX Runtime sessions: choose a provider, and check that graphs match the package's config."""

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

# ONNX Runtime 1.29 and later report every session to Microsoft, including the names of model files,
# unless this is set before the import. Set it to "0" to allow telemetry.
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
    "SessionFactory",
    "Tensor",
    "positive",
    "provider_class",
    "to_host",
]

Floats: TypeAlias = NDArray[np.float32]

#: The providers that can be requested. None means the best one available.
Provider: TypeAlias = Literal["cpu", "cuda"]


def provider_class(provider: str) -> Provider:
    """Return the provider class whose tolerances apply to an ONNX Runtime execution provider."""
    return "cuda" if provider == "CUDAExecutionProvider" else "cpu"


#: A tensor's ONNX Runtime element type and its shape. None stands for any number of rows.
Tensor: TypeAlias = tuple[str, tuple[int | None, ...]]


#: The ONNX Runtime device on which a provider's tensors stay between graphs. Providers without an
#: entry use NumPy's memory.
DEVICES = {"CUDAExecutionProvider": "cuda"}


class OnDevice(Protocol):
    """Rows in the memory of a device."""

    def numpy(self) -> NDArray[Any]:
        """Return a copy in host memory."""


#: Inputs and outputs of a graph.
Rows: TypeAlias = NDArray[Any] | OnDevice


def to_host(rows: Rows) -> Floats:
    """Return a graph's output as an array, copied from the device if necessary."""
    return rows if isinstance(rows, np.ndarray) else rows.numpy()


class Graph:
    """An ONNX graph whose inputs and outputs match the config."""

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
                raise PackageError(f"{path} has no output {name!r}")
            if node.type != kind or not _shapes_agree(node.shape, shape):
                raise PackageError(
                    f"{path}: {name!r} is {node.type} {node.shape}; expected {kind} {list(shape)}"
                )
        self.provider: str = session.get_providers()[0]
        self._device = DEVICES.get(self.provider)
        self._session = session
        self.inputs = tuple(inputs)
        self._outputs = tuple(outputs)

    def upload(self, rows: Rows) -> Rows:
        """Copy rows to the graph's device. Useful for rows that several graphs read."""
        if self._device is None or not isinstance(rows, np.ndarray):
            return rows
        value: OnDevice = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(rows), self._device)
        return value

    def run(
        self, rows: Mapping[str, Rows], names: tuple[str, ...] | None = None
    ) -> dict[str, Rows]:
        """Run the graph and return its outputs by name, left on the device.

        Args:
            rows: The rows of every input by name. Other names are ignored.
            names: The outputs to compute. By default all.
        """
        names = names or self._outputs
        inputs = {name: self.upload(rows[name]) for name in self.inputs}
        if self._device is None:
            return dict(zip(names, self._session.run(names, inputs), strict=True))
        # Bindings are not thread-safe, so each call has its own. Copies to the device and runs are
        # synchronous, so there is no stream to wait for.
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name in names:
            binding.bind_output(name, self._device)
        self._session.run_with_iobinding(binding)
        return dict(zip(names, binding.get_outputs(), strict=True))


def _shapes_agree(found: list[int | str | None], expected: tuple[int | None, ...]) -> bool:
    # A graph may have a symbolic dimension where the config has a number, but not the reverse.
    return len(found) == len(expected) and all(
        not isinstance(size, int) or size == wanted
        for size, wanted in zip(found, expected, strict=True)
    )


class SessionFactory:
    """Creates the sessions of one model, all with the same provider."""

    def __init__(self, provider: Provider | None, threads: int | None) -> None:
        self._wanted = provider
        self._options = ort.SessionOptions()
        self._options.log_severity_level = 3  # errors; warnings are for authors of graphs
        # Idle threads would spin while they wait for work. A model has one thread pool per graph,
        # and these would compete: one 64x64 image would take 12 ms of CPU time instead of 5.
        self._options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            self._options.intra_op_num_threads = positive(threads, "threads")
        self._providers: list[Any] = ["CPUExecutionProvider"]
        if provider not in (None, "cpu", "cuda"):
            raise InvalidInput(f"provider is {provider!r}; expected 'cpu', 'cuda' or None")
        if provider == "cpu":
            return
        if "CUDAExecutionProvider" in ort.get_available_providers() and _cuda_devices() > 0:
            # TF32 loses the last digits, which golden vectors check. The default, an exhaustive
            # search for algorithms, would start again for every new batch size.
            settings = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
            self._providers.insert(0, ("CUDAExecutionProvider", settings))
            with redirect_stdout(sys.stderr):  # it prints the libraries that it cannot find
                ort.preload_dlls()
        elif provider == "cuda":
            raise InvalidInput(
                "provider 'cuda' is not available: there is no GPU, or onnxruntime lacks CUDA"
            )

    def create(self, path: Path) -> ort.InferenceSession:
        """Load the graph in a file.

        Raises:
            PackageError: If ONNX Runtime cannot load it.
            InvalidInput: If CUDA was requested and its libraries cannot be loaded.
        """
        try:
            # By path, not from memory: external data can then only be in the package's own folder.
            # A graph in memory could name any file below the working directory.
            session = ort.InferenceSession(str(path), self._options, self._providers)
        except Exception as error:  # the runtime's exception classes are not public
            raise PackageError(f"{path} cannot be loaded by ONNX Runtime: {error}") from error
        session.disable_fallback()
        in_use = session.get_providers()[0]
        if self._wanted == "cuda" and in_use != "CUDAExecutionProvider":
            raise InvalidInput(
                "provider 'cuda' is not available: onnxruntime cannot load its CUDA libraries, see "
                "above; pip install 'onnxruntime-gpu[cuda,cudnn]' installs them"
            )
        return session


@cache
def _cuda_devices() -> int:
    """Return the number of GPUs that the CUDA driver shows to this process."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def positive(value: int, name: str) -> int:
    """Return ``value``, or raise `InvalidInput` unless it is a whole number, 1 or more."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InvalidInput(f"{name} is {value!r}; expected a whole number, 1 or more")
    return int(value)
