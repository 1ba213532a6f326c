"""Running a model tells nobody about it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_onnx_runtime_sends_nothing(tiny_package: Path, tmp_path: Path) -> None:
    # What it sends, it prepares in the temporary folder: an identity of the session first of all.
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code = f"import repzoo; repzoo.load({str(tiny_package)!r}, provider='cpu')"
    subprocess.run([sys.executable, "-c", code], env={"TMPDIR": str(scratch)}, check=True)
    assert list(scratch.iterdir()) == []
