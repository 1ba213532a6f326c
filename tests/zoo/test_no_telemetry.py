"""Running a model sends no telemetry."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_onnx_runtime_sends_nothing(tiny_package: Path, tmp_path: Path) -> None:
    # Telemetry would first store a session ID in the temporary folder.
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code = f"import repzoo; repzoo.load({str(tiny_package)!r}, provider='cpu')"
    subprocess.run([sys.executable, "-c", code], env={"TMPDIR": str(scratch)}, check=True)
    assert list(scratch.iterdir()) == []
