"""`zoo publish` to a store. For HTTP see tests/hub_server and test_huggingface_hub.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from repzoo.hubs.opening import open_hub
from repzoo.hubs.transport import Transport
from repzoo.packages.package import Package, write_manifest
from repzoo.store.store import Store


def test_tags_and_messages(
    zoo_here: Any, store: Path, tiny_package: Path, other_tiny: Path
) -> None:
    first = zoo_here.json("publish", tiny_package, "--hub", store, "--tag", "v1", "-m", "The first")
    assert first["new"]
    assert first["tag"] == "v1"
    assert first["revision"] == Package.open(tiny_package).revision
    zoo_here("publish", other_tiny, "--hub", store, "--tag", "v2")
    assert open_hub(store).tags("tiny").keys() == {"v1", "v2"}
    assert zoo_here.json("pull", "tiny@v1", "--hub", store)["revision"] == first["revision"]
    info = zoo_here("info", "tiny@v1", "--hub", store)
    assert "tags        v1" in info
    assert "(v2)" in info

    # A tag never moves.
    message = zoo_here("publish", other_tiny, "--hub", store, "--tag", "v1", status=1)
    assert "v1" in message
    assert zoo_here.json("pull", "tiny@v1", "--hub", store)["revision"] == first["revision"]


def test_the_printed_command_pulls_exactly_this_revision(
    zoo_here: Any, store: Path, tiny_package: Path, other_tiny: Path
) -> None:
    pinned = zoo_here("publish", tiny_package, "--hub", store).splitlines()[-1].split()
    zoo_here("publish", other_tiny, "--hub", store)
    assert pinned[:2] == ["zoo", "pull"]
    assert zoo_here.json(*pinned[1:])["revision"] == Package.open(tiny_package).revision


def test_a_dry_run_changes_nothing(
    zoo_here: Any, store: Path, package: Path, other_tiny: Path, tmp_path: Path
) -> None:
    before = sorted(path for path in store.rglob("*"))
    plan = zoo_here.json("publish", package, "--hub", store, "--dry-run", "--tag", "v1")
    assert plan["new"]
    assert plan["files"]["encoder.onnx"] == (package / "encoder.onnx").stat().st_size
    assert "would be published" in zoo_here("publish", package, "--hub", store, "--dry-run")
    assert sorted(path for path in store.rglob("*")) == before

    zoo_here("publish", package, "--hub", store, "--tag", "v1")
    assert "is already the newest" in zoo_here("publish", package, "--hub", store, "--dry-run")
    assert zoo_here.json("publish", other_tiny, "--hub", store, "--dry-run")["new"]
    taken = ["publish", other_tiny, "--hub", store, "--dry-run", "--tag", "v1"]
    assert "has the tag v1 of tiny on another revision" in zoo_here(*taken, status=1)
    # A dry run reports faults of the package too.
    (package / "encoder.onnx").write_bytes(b"not a graph")
    write_manifest(package)
    assert "encoder.onnx" in zoo_here("publish", package, "--hub", store, "--dry-run", status=1)
    assert Store(store).names() == ["tiny"]


def test_an_edited_card_can_be_published(zoo_here: Any, store: Path, package: Path) -> None:
    zoo_here("publish", package, "--hub", store, "--tag", "v1")
    tagged = open_hub(store).tags("tiny")
    (package / "README.md").write_text("Better words.\n")
    # The tag would stay on the commit with the old card.
    for words in ([], ["--dry-run"]):
        tag = ["--hub", store, "--tag", "v1", *words]
        assert "the tag v1" in zoo_here("publish", package, *tag, status=1)
    assert open_hub(store).tags("tiny") == tagged
    assert zoo_here.json("publish", package, "--hub", store, "--dry-run")["new"]
    published = zoo_here.json("publish", package, "--hub", store)
    assert published["new"]
    assert not zoo_here.json("publish", package, "--hub", store, "--dry-run")["new"]
    assert published["revision"] == Package.open(package).revision
    assert zoo_here.json("pull", "tiny", "--hub", store)["revision"] == published["revision"]
    assert "golden outputs verified" in zoo_here("verify", "tiny", "--provider", "cpu")


def test_the_name_of_an_alias_is_refused(zoo_here: Any, store: Path, package: Path) -> None:
    record = json.loads((package / "config.json").read_text()) | {"name": "simvae"}
    (package / "config.json").write_text(json.dumps(record))
    write_manifest(package)
    message = zoo_here("publish", package, "--hub", store, "--files-only", status=1)
    assert "'simvae' is an alias of simvae-mnist" in message


def test_a_token_is_never_printed(
    zoo_here: Any, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _token_of(monkeypatch, "secret\n") == "secret"
    for token in ("my\nsecret", "my secret", "my\x7fsecret", "sécret"):
        monkeypatch.setenv("REPZOO_HUB_TOKEN", token)
        message = zoo_here("publish", package, "--hub", "http://127.0.0.1:1/org", status=1)
        assert "REPZOO_HUB_TOKEN contains characters" in message
        assert "cret" not in message


def _token_of(monkeypatch: pytest.MonkeyPatch, value: str) -> str | None:
    monkeypatch.setenv("REPZOO_HUB_TOKEN", value)
    return Transport("http://127.0.0.1:1").token()


def test_a_flat_folder_is_read_only(zoo_here: Any, flat_hub: Path, package: Path) -> None:
    assert "read-only" in zoo_here("publish", package, "--hub", flat_hub, status=1)


def test_hostile_graphs_are_not_published(
    zoo_here: Any, store: Path, package: Path, make_package: Callable[..., Path]
) -> None:
    import onnx

    model = onnx.load(package / "encoder.onnx")
    model.graph.node[0].domain = "com.evil"
    onnx.save(model, package / "encoder.onnx")
    write_manifest(package)
    for options in ([], ["--files-only"]):
        message = zoo_here("publish", package, "--hub", store, *options, status=1)
        assert "it uses the operator com.evil.Cast" in message
    assert "com.evil" in zoo_here("verify", package, "--files-only", status=1)
    assert Store(store).names() == []
