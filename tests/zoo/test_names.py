"""Names of packages: references, aliases and the order of hubs."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import repzoo
from PIL import Image
from repzoo.cache.cache import Cache
from repzoo.hubs import opening
from repzoo.hubs.opening import default_hub, open_hub
from repzoo.packages.bundled import bundled_folder
from repzoo.packages.names import Names, names
from repzoo.packages.package import Package
from repzoo.packages.reference import Reference, is_path, no_such_package
from repzoo_training.recipes.registry import list_recipes

DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("simvae-celeba", Reference("simvae-celeba")),
        ("simvae-celeba@v2", Reference("simvae-celeba", "v2")),
        (f"a@sha256:{DIGEST}", Reference("a", DIGEST)),
        ("hf://org/a", Reference("a", None, "hf://org")),
        ("hf://Some-Org.1/a@abc1234", Reference("a", "abc1234", "hf://Some-Org.1")),
        (f"hf://org/a@sha256:{DIGEST}", Reference("a", DIGEST, "hf://org")),
        ("http://127.0.0.1:8080/org/a@v1.0", Reference("a", "v1.0", "http://127.0.0.1:8080/org")),
        ("https://hub.example.org/org/a", Reference("a", None, "https://hub.example.org/org")),
        ("https://[::1]:80/org/a@main", Reference("a", "main", "https://[::1]:80/org")),
    ],
)
def test_references(text: str, expected: Reference) -> None:
    assert Reference.parse(text) == expected
    assert not is_path(text)
    # The printed form can be parsed again.
    assert Reference.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "hf://a",
        "hf:///a",
        "hf://org/a/b",
        "hf://org/../a",
        "hf://org/A",
        "hf://org/a@",
        "hf://org/a@../x",
        "hf://org/a?x=1",
        "https://host/a",
        "https://user:secret@host/org/a",
        "https://host:port/org/a",
        "https://host/org/extra/a",
        "https:///org/a",
        "ftp://host/org/a",
        "file:///etc/passwd",
        "HF://org/a",
        "a@sha256:123",
        "a@b@c",
    ],
)
def test_invalid_references(text: str) -> None:
    with pytest.raises(repzoo.InvalidInput):
        Reference.parse(text)


def test_addresses_are_never_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf:" / "org" / "a").mkdir(parents=True)
    (tmp_path / "hf:" / "org" / "a" / "manifest.json").write_text("{}")
    assert not is_path("hf://org/a")
    assert is_path("hf:/org/a")
    assert is_path("runs/mine")


def test_with_a_hub_a_name_is_never_a_folder(
    make_package: Callable[..., Path],
    tiny_package: Path,
    zoo_process: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
) -> None:
    # The folder is a package of another size and, for commands that take runs, a damaged run.
    here = make_package(tmp_path, "tiny", latent_dim=6)
    (here / "run.json").write_text("{}")
    hub = tmp_path / "hub"
    hub.symlink_to(tiny_package.parent)
    for name, low in (("dark", 0), ("bright", 128)):
        for number in range(6):
            pixels = np.full((8, 8), low + number, np.uint8)
            (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")

    def run(*words: str) -> str:
        status, out, err = zoo_process(words, tmp_path)
        assert status == 0, (words, err)
        return out

    def run_json(*words: str) -> Any:
        return json.loads(run(*words, "--hub", "hub", "--json"))

    revision = Package.open(tiny_package).revision
    assert run_json("info", "tiny")["revision"] == revision
    sizes = run_json("diff", "tiny", "./tiny")["config"]["latent_dim"]
    assert (sizes["a"], sizes["b"]) == (4, 6)
    embedding = ("embed", "photos", "--out", "photos.parquet", "--model", "tiny")
    assert run_json(*embedding)["revision"] == revision
    measuring = ("evaluate", "tiny", "--data", "photos", "--split", "0.3", "--measures", "knn")
    assert run_json(*measuring)["dim"] == 4
    fitting = ("probe", "fit", "tiny", "--data", "photos", "--task", "light", "--folds", "2")
    run(*fitting, "--out", "fitted", "--hub", "hub")
    assert Package.open(tmp_path / "fitted").config.latent_dim == 4
    serving = ("serve", "--check", "--models", "a=tiny", "--hub", "hub")
    assert f"a  {revision[:12]}" in run(*serving)

    # If the hub has no such package, the error names the way to the folder.
    here.rename(tmp_path / "mine")
    for words in (("info", "mine"), ("embed", "photos", "--out", "x.parquet", "--model", "mine")):
        status, _, err = zoo_process([*words, "--hub", "hub"], tmp_path)
        assert status == 1
        assert err.endswith("has no package 'mine'; see zoo list; for the folder, write ./mine\n")
    here = (tmp_path / "mine").rename(here)

    # A path is a path, for which a hub makes no sense.
    assert json.loads(run("info", "./tiny", "--json"))["revision"] != revision
    assert json.loads(run("info", "tiny", "--json"))["revision"] != revision
    with pytest.raises(repzoo.InvalidInput, match="is a path: hub and revision cannot be given"):
        repzoo.load(here, hub=str(hub))


def test_a_reference_and_an_option_must_agree_on_the_hub() -> None:
    reference = Reference.parse("hf://org/a")
    assert reference.hub_or(None) == reference.hub_or("hf://org") == "hf://org"
    assert Reference("a").hub_or("folder") == "folder"
    assert Reference("a").hub_or(None) is None
    with pytest.raises(
        repzoo.InvalidInput, match="hf://org/a names its own hub, but hf://other was"
    ):
        reference.hub_or("hf://other")


def test_the_catalogue_is_sound() -> None:
    assert re.fullmatch(r"hf://[a-z0-9-]+", names().organisation)
    recipes = {recipe.name for recipe in list_recipes()}
    for alias, target in names().aliases.items():
        reference = Reference.parse(alias)
        assert str(reference) == target
        assert reference.name not in names().aliases
        # A package with the name of an alias could not be requested.
        assert alias not in recipes
        assert not (bundled_folder() / alias).exists()
        if reference.hub is None:
            assert (bundled_folder() / reference.name / "manifest.json").exists()


def test_aliases_work_wherever_names_do(zoo_here: Any) -> None:
    assert Reference.parse("simvae@v2") == Reference("simvae-mnist", "v2")
    assert Reference.parse("hf://org/simvae") == Reference("simvae", None, "hf://org")
    assert zoo_here.json("pull", "simvae")["name"] == "simvae-mnist"
    assert "simvae-mnist" in zoo_here("path", "simvae")
    assert zoo_here.json("info", "mnist")["name"] == "simvae-mnist"
    assert "simvae-mnist" in zoo_here("verify", "simvae", "--files-only")
    assert repzoo.load("vae").config.name == "vae-mnist"
    assert zoo_here.json("rm", "simvae")["name"] == "simvae-mnist"


def test_an_alias_may_include_a_revision_and_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    meant = Names("hf://repzoo", {"faces": "hf://org/simvae-celeba@v2"})
    monkeypatch.setattr("repzoo.packages.reference.names", lambda: meant)
    assert Reference.parse("faces") == Reference("simvae-celeba", "v2", "hf://org")
    assert Reference.parse("faces@main") == Reference("simvae-celeba", "main", "hf://org")


def test_similar_names_are_suggested_for_unknown_ones(zoo_here: Any, flat_hub: Path) -> None:
    known = ["simvae-mnist", "simvae-fashion-mnist", "vae-mnist"]
    message = str(no_such_package("here", "simvae-mnits", known))
    assert message.startswith("here has no package 'simvae-mnits'; did you mean simvae-mnist or ")
    assert str(no_such_package("here", "x", known)) == "here has no package 'x'; see zoo list"
    assert "did you mean tiny? see zoo list" in zoo_here("pull", "tinny", status=1)


def test_the_order_of_hubs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flat_hub: Path) -> None:
    assert default_hub() == default_hub("simvae-imagenet") == str(flat_hub)
    monkeypatch.delenv("REPZOO_HUB")
    assert default_hub() == default_hub("simvae-mnist") == str(bundled_folder())
    assert default_hub("simvae-imagenet") == names().organisation
    assert open_hub(None, "simvae-imagenet").spec == names().organisation


def test_bundled_packages_need_no_network(
    monkeypatch: pytest.MonkeyPatch, flat_hub: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import socket

    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    Cache().pull(Reference("tiny"))
    monkeypatch.delenv("REPZOO_HUB")
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    assert repzoo.load("simvae-mnist").config.name == "simvae-mnist"
    # A package that was pulled from another hub is in the cache, so no hub is asked.
    assert repzoo.load("tiny").config.name == "tiny"
    assert caplog.records == []


def test_asking_the_fallback_hub_is_announced(
    zoo_here: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("REPZOO_OFFLINE", "1")
    for command in ("pull", "info"):
        caplog.clear()
        error = zoo_here(command, "simvae-mnits", status=1)
        assert "offline" in error
        for text in (error, caplog.text):
            assert "simvae-mnits is neither bundled nor cached; did you mean simvae-mnist" in text
        assert f"asking {names().organisation}" in caplog.text


def test_a_typing_error_is_answered_soon_even_if_a_firewall_drops_packets(
    zoo_here: Any, monkeypatch: pytest.MonkeyPatch, flat_hub: Path
) -> None:
    zoo_here("pull", "tiny", "--hub", flat_hub)
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # its backlog is full, so it does not answer further connections
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        monkeypatch.setenv("HF_ENDPOINT", "http://{}:{}".format(*full.getsockname()))
        monkeypatch.delenv("REPZOO_HUB")
        monkeypatch.setattr(opening, "_LAST_RESORT_SECONDS", 0.2)
        started = time.monotonic()
        error = zoo_here("pull", "tinny", status=1)
        assert time.monotonic() - started < 5
    assert "did you mean tiny? " in error
    assert "no answer within 0.2 s; is there a network?" in error
