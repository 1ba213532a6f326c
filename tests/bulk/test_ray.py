"""`zoo embed --engine ray` on a cluster of two workers, each with its own raylet."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without cores and two nodes with one core each, on this machine."""
    from ray.cluster_utils import Cluster  # type: ignore[import-untyped]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_raylet_start_wait_time_s", "300")  # a busy machine starts them slowly
        made = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        try:
            made.add_node(num_cpus=1)
            made.add_node(num_cpus=1)
            yield made
        finally:
            made.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_same_file_as_here(
    cluster: Any,
    finish: Callable[..., Any],
    start: Callable[..., subprocess.Popen[str]],
    photos: Path,
    tmp_path: Path,
) -> None:
    """Two workers write the same bytes as one machine, even if the run is killed halfway."""
    options = ("--part-size", "64", "--posterior")
    local, remote = tmp_path / "local.parquet", tmp_path / "ray.parquet"
    assert finish(photos, local, *options)[0] == 3
    env = {"RAY_ADDRESS": cluster.address}
    process = start(photos, remote, *options, "--engine", "ray", **env)
    parts = tmp_path / "ray.parquet.parts"
    while process.poll() is None and len(list(parts.glob("part-*"))) < 2:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    status, stdout, stderr = finish(photos, remote, *options, "--engine", "ray", **env)
    print(stdout, stderr)
    assert status == 3, stderr
    assert "were done earlier" in stdout
    assert remote.read_bytes() == local.read_bytes()
