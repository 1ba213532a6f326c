"""Which package may import which: serving → zoo, training → zoo, and the client nothing of ours."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "repzoo": ROOT / "zoo" / "repzoo",
    "repzoo_training": ROOT / "training" / "repzoo_training",
    "repzoo_serving": ROOT / "serving" / "repzoo_serving",
    "repzoo_client": ROOT / "clients" / "python" / "repzoo_client",
}
ALLOWED = {
    "repzoo": set[str](),
    "repzoo_training": {"repzoo"},
    "repzoo_serving": {"repzoo"},
    "repzoo_client": set[str](),
}
#: `zoo index` alone reaches from the zoo to the client, and to one package of it.
INDEX = ROOT / "zoo" / "repzoo" / "commands" / "index"
RETRIEVAL = "repzoo_client.retrieval"


def imports(file: Path) -> Iterator[str]:
    """Top-level names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        else:
            continue
        for name in names:
            if not (file.parent == INDEX and f"{name}.".startswith(f"{RETRIEVAL}.")):
                yield name.split(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_follow_the_arrows(package: str) -> None:
    files = list(PACKAGES[package].rglob("*.py"))
    assert files
    wrong = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imports(file)
        if name in PACKAGES and name != package and name not in ALLOWED[package]
    }
    assert not wrong


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import repzoo", ("torch", "onnxruntime", "PIL", "bentoml")),
        ("import repzoo_client", ("torch", "repzoo", "pydantic", "PIL", "pymilvus")),
        ("import repzoo_client.retrieval", ("torch", "repzoo", "PIL", "pymilvus", "milvus_lite")),
        ("import repzoo.cli", ("torch", "onnxruntime", "PIL", "bentoml")),
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


def test_nothing_of_this_machine_is_in_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines
    assert not [line for line in lines if "/" in line or "@" in line]
