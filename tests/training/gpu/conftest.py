"""The tool is no installed package: its folder goes on the path, here as in run_pending.sh."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

GPU = Path(__file__).parents[3] / "training" / "gpu"
sys.path.insert(0, str(GPU))


@pytest.fixture(scope="session")
def run_pending() -> Path:
    """The command as a user starts it."""
    return GPU / "run_pending.sh"
