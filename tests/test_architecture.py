"""The import contracts in pyproject.toml, and modules that must not import heavy libraries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_import_contracts() -> None:
    lint = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", lint, "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import repzoo; repzoo.ModelConfig", ("torch", "onnxruntime", "PIL", "bentoml", "numpy")),
        ("import repzoo; repzoo.load", ("torch",)),
        ("import repzoo_client", ("torch", "repzoo", "pydantic", "PIL", "pymilvus")),
        ("import repzoo_client.retrieval", ("torch", "repzoo", "PIL", "pymilvus", "milvus_lite")),
        ("import repzoo.cli", ("torch", "onnxruntime", "PIL", "bentoml", "numpy")),
        ("import repzoo.commands.embedding", ("ray", "pyarrow", "fsspec", "onnxruntime", "PIL")),
        ("import repzoo.bulk.on_ray", ("ray", "torch")),
        ("import repzoo_training.commands.train", ("torch", "onnxruntime", "PIL")),
        ("import repzoo_serving.cli", ("onnxruntime", "PIL", "bentoml")),
    ],
)
def test_imports_stay_light(statement: str, absent: tuple[str, ...]) -> None:
    code = f"import sys; {statement}; print([m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_constraints_have_no_paths_or_urls() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines
    assert not [line for line in lines if "/" in line or "@" in line]
