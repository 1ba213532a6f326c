"""The first load of a package, in a process that may crash, hang or run out of memory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
import repzoo
from onnx import TensorProto, helper, numpy_helper
from repzoo.admission import first_load as admission
from repzoo.admission.first_load import admit
from repzoo.packages.package import Package, write_manifest

ROOT = Path(__file__).parents[2]


def endless(value: str, to: str) -> list[onnx.NodeProto]:
    """A loop that never ends."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Identity", ["old"], ["new"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("old", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("new", TensorProto.FLOAT, None),
        ],
    )
    return [
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("Loop", ["", "yes", value], [to], body=body),
    ]


def swelling(value: str, to: str) -> list[onnx.NodeProto]:
    """A tensor of 2^40 elements from a few bytes."""
    shape = numpy_helper.from_array(np.array([2**20, 2**18, 1, 4]))
    return [
        helper.make_node("Constant", [], ["large"], value=shape),
        helper.make_node("Expand", [value, "large"], ["sheets"]),
        helper.make_node("ReduceMax", ["sheets"], ["most"], keepdims=0),
        helper.make_node("Add", [value, "most"], [to]),
    ]


def growing(value: str, to: str) -> list[onnx.NodeProto]:
    """A tensor that doubles 60 times."""
    nodes, last = [], value
    for i in range(60):
        nodes.append(helper.make_node("Concat", [last, last], [f"twice{i}"], axis=0))
        last = f"twice{i}"
    return [
        *nodes,
        helper.make_node("ReduceMax", [last], ["most"], keepdims=0),
        helper.make_node("Add", [value, "most"], [to]),
    ]


@pytest.fixture
def tamper(package: Path) -> Callable[..., Package]:
    """Insert nodes before an output of a graph, and write a matching manifest."""

    def tamper(
        nodes: Callable[[str, str], list[onnx.NodeProto]],
        file: str = "encoder.onnx",
        output: str = "embedding",
    ) -> Package:
        model = onnx.load(package / file)
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = ["honest" if name == output else name for name in names]
        model.graph.node.extend(nodes("honest", output))
        onnx.save(model, package / file)
        return write_manifest(package)

    return tamper


def markers(cache: Path) -> list[str]:
    folder = cache / "admitted"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache without admitted packages."""
    monkeypatch.setenv("REPZOO_CACHE", str(tmp_path / "untried"))
    return tmp_path / "untried"


def never(package: Package) -> None:
    raise AssertionError(f"{package.path} was run")


def test_a_package_is_run_once(
    package: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened = Package.open(package)
    admit(opened)
    (marker,) = markers(cache)
    assert marker.startswith(f"{opened.revision}.{repzoo.__version__}-")
    with monkeypatch.context() as patch:
        patch.setattr(admission, "_try", never)
        admit(opened)
        # The same revision in another folder.
        admit(Package.open(shutil.copytree(package, tmp_path / "elsewhere")))
        repzoo.load(package)
        patch.setattr(admission, "_runtime_version", lambda: "9.9")
        with pytest.raises(AssertionError):
            admit(opened)


def test_bundled_packages_are_trusted(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "_try", never)
    copy = shutil.copytree(ROOT / "zoo" / "bundled" / "vae-mnist", tmp_path / "copy")
    admit(Package.open(copy))
    assert markers(cache) == []
    # The name alone does not make a package a bundled one.
    (copy / "metrics.json").write_text("{}")
    with pytest.raises(AssertionError):
        admit(write_manifest(copy))


@pytest.mark.parametrize("nodes", [swelling, growing])
def test_a_graph_that_takes_all_memory(
    nodes: Callable[[str, str], list[onnx.NodeProto]], tamper: Callable[..., Package], cache: Path
) -> None:
    package = tamper(nodes)
    with pytest.raises(repzoo.PackageError) as caught:
        repzoo.load(package.path)
    assert str(package.path) in str(caught.value)
    assert "alloc" in str(caught.value)
    assert markers(cache) == []


@pytest.mark.parametrize(
    ("file", "output"),
    [
        ("encoder.onnx", "embedding"),
        ("decoder.onnx", "images"),
        ("probes/digit.linear.onnx", "logits"),
    ],
)
def test_a_graph_that_never_ends(
    file: str, output: str, tamper: Callable[..., Package], cache: Path, monkeypatch: Any
) -> None:
    package = tamper(endless, file, output)
    monkeypatch.setenv("REPZOO_TRIAL_SECONDS", "1")
    with pytest.raises(repzoo.PackageError, match=r"took more than 1 seconds.*REPZOO_TRIAL_SECOND"):
        repzoo.load(package.path)
    assert markers(cache) == []


@pytest.mark.parametrize("death", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_a_crash_of_the_process_is_an_error(
    death: signal.Signals, tamper: Callable[..., Package], cache: Path
) -> None:
    package = tamper(endless)
    failures: list[str] = []

    def load() -> None:
        with pytest.raises(repzoo.PackageError) as caught:
            admit(package)
        failures.append(str(caught.value))

    thread = threading.Thread(target=load)
    thread.start()
    child = None
    while child is None:
        assert thread.is_alive()
        for each in psutil.Process().children():
            # The graph is running: the limits are set after the libraries are loaded.
            if each.rlimit(psutil.RLIMIT_CPU)[0] != psutil.RLIM_INFINITY:
                child = each
    os.kill(child.pid, death)
    thread.join()
    (failure,) = failures
    assert f"crashed in its first run: {death.name}" in failure
    assert markers(cache) == []


_TRY_EVERYTHING = """
import json, os, socket, sys
from pathlib import Path
from repzoo.packages.package import Package
from repzoo.admission import trial

before = os.readlink("/proc/self/ns/net")
trial._leave_the_network()
trial._limit(Package.open(sys.argv[1]), 5)

def outcome(action):
    try:
        action()
    except Exception as error:
        return type(error).__name__
    return "done"

def open_many():
    files = [open(sys.argv[1] + "/config.json") for _ in range(200)]

def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)

print(json.dumps({
    "apart": os.readlink("/proc/self/ns/net") != before,
    "network": outcome(lambda: socket.create_connection(("127.0.0.1", int(sys.argv[2])), 5)),
    "write": outcome(lambda: Path(sys.argv[1], "new").write_bytes(b"x")),
    "memory": outcome(lambda: bytearray(2**33)),
    "some memory": outcome(lambda: bytearray(2**30)),
    "files": outcome(open_many),
    "root": os.geteuid() == 0,
    "fork": outcome(fork),
}))
"""


def test_the_limits_are_enforced(package: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        result = subprocess.run(
            [sys.executable, "-c", _TRY_EVERYTHING, str(package), port],
            capture_output=True,
            text=True,
            check=True,
        )
    found = json.loads(result.stdout)
    assert found["write"] == found["files"] == "OSError"
    assert found["memory"] == "MemoryError"
    assert found["some memory"] == "done"
    # Not every system lets a process leave the network, and root may exceed the process limit.
    assert found["network"] == ("OSError" if found["apart"] else "done")
    assert found["fork"] == ("done" if found["root"] else "BlockingIOError")


def test_failures_are_the_usual_errors(
    package: Path, cache: Path, other_tiny: Path, flip: Callable[..., None]
) -> None:
    shutil.copy(other_tiny / "encoder.onnx", package)
    with pytest.raises(repzoo.GoldenMismatch, match="embedding is off by"):
        repzoo.load(write_manifest(package).path)
    (package / "encoder.onnx").write_bytes(b"not a graph")
    with pytest.raises(repzoo.PackageError, match=r"encoder\.onnx is not an allowed ONNX graph"):
        repzoo.load(write_manifest(package).path)
    assert markers(cache) == []


def test_an_invalid_time_limit(package: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPZOO_TRIAL_SECONDS", "soon")
    with pytest.raises(repzoo.InvalidInput, match="REPZOO_TRIAL_SECONDS is 'soon'"):
        admit(Package.open(package))


def test_a_read_only_cache_still_loads(
    zoo_as_anyone: Any, package: Path, cache: Path, read_only: Callable[[Path], None]
) -> None:
    cache.mkdir()
    read_only(cache)
    assert "golden outputs verified" in zoo_as_anyone("verify", package, "--provider", "cpu")
    assert markers(cache) == []


def test_concurrent_processes_run_it_once(
    zoo: Any, package: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = [zoo.start("verify", package, "--provider", "cpu") for _ in range(3)]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "golden outputs verified" in out
    assert len(markers(cache)) == 1
