"""The ``hf`` command with the server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from repzoo.packages.package import Package


def test_hf(
    shared: Any, hf: Callable[..., str], tiny_package: Path, large_file: Path, tmp_path: Path
) -> None:
    url, token = shared.url, shared.tokens.write
    assert "writer" in hf(url, token, "auth", "whoami")
    hf(url, token, "repos", "create", "zoo/by-command")
    # Small files are not sent through Xet, even if it is not disabled.
    hf(url, token, "upload", "zoo/by-command", tiny_package, ".")
    hf(url, token, "repos", "tag", "create", "zoo/by-command", "v1")
    no_xet = {"HF_HUB_DISABLE_XET": "1"}
    hf(url, token, "upload", "zoo/by-command", large_file, "large.bin", **no_xet)
    found = hf(url, None, "models", "ls", "--search", "by-command", "--format", "json")
    assert '"zoo/by-command"' in found
    out = tmp_path / "out"
    hf(url, None, "download", "zoo/by-command", "--revision", "v1", "--local-dir", out)
    assert Package.open(out).revision == Package.open(tiny_package).revision
    assert not (out / "large.bin").exists()
    hf(url, None, "download", "zoo/by-command", "large.bin", "--local-dir", out)
    assert (out / "large.bin").read_bytes() == large_file.read_bytes()


def test_a_large_file_through_xet_is_refused_at_once(
    shared: Any, hf: Callable[..., str], large_file: Path
) -> None:
    """The client alone decides to use Xet, and only shows the URL that failed."""
    url, token = shared.url, shared.tokens.write
    hf(url, token, "repos", "create", "zoo/by-xet")
    printed = hf(url, token, "upload", "zoo/by-xet", large_file, "large.bin", status=1)
    assert "HF_HUB_DISABLE_XET=1" in printed


def test_hf_without_permission(shared: Any, hf: Callable[..., str]) -> None:
    url = shared.url
    hf(url, shared.tokens.write, "repos", "create", "zoo/not-yours")
    assert "may only read" in hf(
        url, shared.tokens.read, "repos", "tag", "create", "zoo/not-yours", "v1", status=1
    )
    assert "not valid on this hub" in hf(url, "zoo_wrong", "repos", "create", "zoo/more", status=1)
    hf(url, None, "download", "zoo/nothing-there", status=1)
