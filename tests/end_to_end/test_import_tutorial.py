"""The tutorial on importing runs as it is written, with a small network and with a ViT-S."""

from __future__ import annotations

import base64
import json
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import repzoo
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs" / "tutorials" / "import-an-encoder.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TIMM = "timm:vit_small_patch16_224 --weights random"


def blocks(heading: str, language: str) -> list[str]:
    (section,) = re.findall(rf"^## {heading}$(.*?)^## ", TUTORIAL, re.MULTILINE | re.DOTALL)
    return [text for kind, text in BLOCK.findall(section) if kind == language]


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with photos, and an encoder of 224×224 pixels with 384 dimensions."""
    script = ROOT / "tests" / "data" / "unpack.py"
    subprocess.run([sys.executable, script, "cifar10", "photos"], cwd=tmp_path, check=True)
    return tmp_path


def write_onnx(path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 96, 16, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    )
    torch.onnx.export(
        network.eval(),
        (torch.zeros(2, 3, 224, 224),),
        path,
        dynamic_shapes=({0: torch.export.Dim("N")},),
        dynamo=True,
        verbose=False,
    )


@pytest.mark.filterwarnings("ignore")  # torch's exporter warns of its own deprecations
@pytest.mark.slow
@pytest.mark.parametrize("model", ["onnx", "timm"])
def test_the_tutorial(
    model: str,
    place: Path,
    server_process: type,
    zoo_process: Callable[..., tuple[int, str, str]],
) -> None:
    def zoo(line: str) -> str:
        words = shlex.split(line)
        assert words[0] == "zoo"
        status, stdout, stderr = zoo_process(words[1:], place)
        assert status == 0, stdout + stderr
        return stdout

    (importing,) = blocks("From timm to a package", "sh")
    (calibrating,) = blocks("Calibrate it on your photos", "sh")
    using, serving = blocks("Use it", "sh")
    assert TIMM in importing
    if model == "onnx":
        write_onnx(place / "net.onnx")
        importing = importing.replace(TIMM, "net.onnx --mean 0.5 --std 0.5 --resize 248")
        calibrating = calibrating.replace("--copies 500", "--copies 100")
    outputs = [zoo(line) for block in (importing, calibrating) for line in block.splitlines()]
    assert outputs[0].startswith("imported: imported (vit-small, 224x224x3 pixels, 384 dimensions")
    outputs += [zoo(line) for line in using.splitlines()]
    assert repzoo.load(place / "vit-small").config.input.scaled == (248, 248)

    table = pq.read_table(place / "embeddings.parquet")
    assert table.num_rows == 100
    embeddings = np.stack(table["embedding"].to_numpy())
    assert embeddings.shape == (100, 384)
    assert table["uncertainty"].null_count == 0

    (command,) = serving.splitlines()
    words = shlex.split(command.replace("--port 3000", "--port 0"))
    # The path of the hub is that of the folder, in which this process does not run.
    words[words.index("hub")] = str(place / "hub")
    with server_process(*words[2:], log=place / "log") as server:
        url = server.wait_until_ready()
        (script,) = blocks("Use it", "python")
        (expected,) = blocks("Use it", "text")
        output = run([sys.executable, "-c", script.replace("http://127.0.0.1:3000", url)], place)
        assert output == expected
        file = base64.b64encode((place / "photos" / "0003.png").read_bytes()).decode()
        robust = post(f"{url}/embed", {"model": "vit-small", "images": [file], "robust": True})
        assert len(robust["embeddings"][0]) == 384
        body = {"model": "vit-small", "input": [f"data:image/png;base64,{file}"]}
        answer = post(f"{url}/v1/embeddings", body)
        expected_row = embeddings[table["id"].to_pylist().index("0003.png")]
        # Like OpenAI's, these embeddings have length 1.
        expected_row = expected_row / np.linalg.norm(expected_row)
        np.testing.assert_allclose(answer["data"][0]["embedding"], expected_row, atol=1e-5)
        with urllib.request.urlopen(url, timeout=60) as page:
            assert b"<html" in page.read()
