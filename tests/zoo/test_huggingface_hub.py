"""Hubs over HTTP: responses, tokens, and publishing to a real `zoo hub serve`."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import repzoo
from repzoo.cache.cache import Cache
from repzoo.hub import WritableHub
from repzoo.hubs.huggingface import HuggingFaceHub
from repzoo.hubs.opening import hub_spec, open_hub
from repzoo.hubs.transport import Transport
from repzoo.hubs.uploads import RemoteFile
from repzoo.packages.package import SIGNATURE, Package, write_manifest
from repzoo.packages.reference import Reference
from repzoo.store.store import Store

TINY = Reference("tiny")


@pytest.fixture(autouse=True)
def _alone(impatient: None, no_network_settings: None) -> None:
    pass


def revision_of(path: Path) -> str:
    return hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()


def test_hub_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = open_hub("hf://some-org")
    assert isinstance(hub, HuggingFaceHub)
    assert isinstance(hub, WritableHub)
    assert (hub.endpoint, hub.org) == ("https://huggingface.co", "some-org")
    assert hub.spec == hub_spec("hf://some-org/") == hub_spec("https://huggingface.co/some-org")
    assert hub.spec == "hf://some-org"
    assert open_hub("http://127.0.0.1:8000/Org").spec == "http://127.0.0.1:8000/Org"
    assert open_hub("https://[::1]:80/o/").spec == "https://[::1]:80/o"
    for wrong in (
        "hf://",
        "hf://org/name",
        "hf://-org",
        "hf://o r g",
        "ftp://host/org",
        "https://host",
        "https://host/org/name",
        "https://user:secret@host/org",
        "https://host:99999999/org",
        "https://host/org?x",
        "https:///org",
        "https://ho%20st/org",
    ):
        with pytest.raises(repzoo.HubError, match="is not a hub"):
            open_hub(wrong)
    # hf:// then means another server, which must not be confused with huggingface.co.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:8000/")
    assert hub_spec("hf://org") == "http://127.0.0.1:8000/org"


def test_only_packages_are_listed(faulty_hub: Any, tiny_package: Path) -> None:
    faulty_hub.publish(tiny_package)
    faulty_hub.commit("a-language-model", {"config.json": b"{}", "model.safetensors": b""})
    faulty_hub.commit("NotAName", {"manifest.json": b"", "config.json": b"", "encoder.onnx": b""})
    asked = len(faulty_hub.requests)
    assert open_hub(faulty_hub.spec).names() == ["tiny"]
    assert len(faulty_hub.requests) == asked + 1


def test_pages_on_another_host_are_not_followed(faulty_hub: Any, faults: ModuleType) -> None:
    def page(link: str) -> Callable[..., None]:
        files = [{"rfilename": f} for f in ("manifest.json", "config.json", "encoder.onnx")]
        models = json.dumps([{"id": f"org/model-{len(link)}", "siblings": files}]).encode()

        def answer(handler: Any, *_: object) -> None:
            handler.head(200, len(models), Link=f'<{link}>; rel="next"')
            handler.send(models)

        return answer

    faulty_hub.misbehave("/api/models", page("/api/models?page=2"))
    assert open_hub(faulty_hub.spec).names() == ["model-18"]
    faulty_hub.misbehave("/api/models", page("http://localhost:1/api/models?page=2"))
    with pytest.raises(repzoo.HubError, match="another host"):
        open_hub(faulty_hub.spec).names()


def test_every_form_of_a_revision(faulty_hub: Any, tiny_package: Path, other_tiny: Path) -> None:
    # The first commits of a repository, which hold no package, are not revisions.
    empty = faulty_hub.commit("tiny", {})
    faulty_hub.commit("tiny", {"README.md": b"soon"})
    first = faulty_hub.publish(tiny_package, tag="v1")
    second = faulty_hub.publish(other_tiny)
    hub = open_hub(faulty_hub.spec)
    assert hub.revisions("tiny") == [second, first]
    assert hub.tags("tiny") == {"v1": first}
    meanings = {
        None: second,
        "main": second,
        "v1": first,
        first: first,
        first[:7]: first,
        revision_of(tiny_package): first,
        revision_of(tiny_package)[:9]: first,
        revision_of(other_tiny): second,
    }
    for revision, commit in meanings.items():
        assert hub.resolve("tiny", revision) == commit, revision
    for revision in ("v2", first[:6], "0" * 7, "0" * 40, "0" * 64, "../v1", "A" * 40):
        with pytest.raises(repzoo.ModelNotFound):
            hub.resolve("tiny", revision)
    with pytest.raises(repzoo.ModelNotFound, match="the tags v1"):
        hub.resolve("tiny", "v2")
    with pytest.raises(repzoo.ModelNotFound, match="not a model package"):
        hub.manifest("tiny", empty)
    for name in ("other", "../tiny", "", "TINY"):
        with pytest.raises(repzoo.ModelNotFound):
            hub.resolve(name)
    with pytest.raises(repzoo.ModelNotFound, match="did you mean tiny"):
        hub.resolve("tinny")
    with pytest.raises(ValueError, match="is not a file that a model package may"):
        hub.open("tiny", first, "../../secret")

    pulled = Cache().pull(Reference("tiny", revision_of(tiny_package)), faulty_hub.spec)
    assert pulled.package.revision == revision_of(tiny_package)


def test_reading_from_any_offset(faulty_hub: Any, tiny_package: Path) -> None:
    commit = faulty_hub.publish(tiny_package)
    content = (tiny_package / "encoder.onnx").read_bytes()
    hub = open_hub(faulty_hub.spec)
    for start in (0, 1, 100, len(content) - 1):
        with hub.open("tiny", commit, "encoder.onnx", start) as stream:
            assert stream.read(10) == content[start : start + 10]
            assert stream.read() == content[start + 10 :]
            assert stream.read() == b""


def test_signatures_are_kept_beside_the_manifest(
    faulty_hub: Any, cache: Path, tiny_package: Path, tmp_path: Path
) -> None:
    faulty_hub.publish(tiny_package)
    package = Cache().pull(TINY, faulty_hub.spec).package
    assert not (package.path / SIGNATURE).exists()
    # Signed later: same manifest, another commit.
    signed = shutil.copytree(tiny_package, tmp_path / "tiny")
    (signed / SIGNATURE).write_bytes(b'{"signed": true}')
    faulty_hub.publish(signed)
    pulled = Cache().pull(TINY, faulty_hub.spec)
    assert (pulled.package.path / SIGNATURE).read_bytes() == b'{"signed": true}'
    assert pulled.fetched == ()
    pulled.package.verify()
    asked = len(faulty_hub.requests)
    Cache().pull(TINY, faulty_hub.spec)
    assert len(faulty_hub.requests) == asked + 1


@pytest.mark.parametrize("where", ["tag", "commit"])
def test_a_changed_tag_or_commit_is_refused(
    where: str,
    zoo_here: Any,
    faulty_hub: Any,
    cache: Path,
    tiny_package: Path,
    other_tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub = faulty_hub.spec
    commit = faulty_hub.publish(tiny_package, tag="v1")
    reference = f"tiny@{'v1' if where == 'tag' else commit}"
    zoo_here("pull", reference, "--hub", hub)
    zoo_here("rm", "tiny")  # the memory of the pull stays
    if where == "tag":
        faulty_hub.publish(other_tiny, tag="v1")
    else:
        files = {
            p.relative_to(other_tiny).as_posix(): p.read_bytes() for p in other_tiny.rglob("*.*")
        }
        faulty_hub.repositories["tiny"][commit] = files

    for command in ("pull", "pull --dry-run"):
        message = zoo_here(*command.split(), reference, "--hub", hub, status=1)
        assert revision_of(tiny_package)[:12] in message
        assert revision_of(other_tiny)[:12] in message
        assert f"zoo pull {reference} --accept-change" in message
    with pytest.raises(repzoo.RevisionChanged):
        repzoo.load(f"{hub}/{reference}")
    assert Cache().names() == []

    changed = ["pull", reference, "--hub", hub, "--accept-change"]
    assert zoo_here.json(*changed, "--dry-run")["revision"] == revision_of(other_tiny)
    assert "pulled" in zoo_here(*changed)
    zoo_here("pull", reference, "--hub", hub)
    assert Cache().find(Reference.parse(reference)).revision == revision_of(other_tiny)


def test_a_dry_run_says_that_the_token_is_missing(
    zoo_here: Any, faulty_hub: Any, tiny_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("publish", tiny_package, "--hub", faulty_hub.spec, "--dry-run", "--files-only")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    shown = zoo_here(*words)
    assert "no token is set: unless the hub is open to everyone, publishing needs" in shown
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    planned = zoo_here(*words)
    assert "would be published" in planned
    assert "token" not in planned


def test_a_pinned_digest_is_always_checked(
    faulty_hub: Any, faults: ModuleType, tiny_package: Path, other_tiny: Path
) -> None:
    commit = faulty_hub.publish(other_tiny)
    pin = Reference.parse(f"tiny@sha256:{revision_of(tiny_package)}")
    with pytest.raises(repzoo.ModelNotFound):
        Cache().pull(pin, faulty_hub.spec)
    # A tag with that name cannot circumvent it.
    faulty_hub.tags["tiny"] = {pin.revision: commit}
    with pytest.raises(repzoo.IntegrityError, match="does not have the SHA-256"):
        Cache().pull(pin, faulty_hub.spec)
    assert Cache().names() == []


def test_a_dry_run_writes_nothing(
    zoo_here: Any, faulty_hub: Any, cache: Path, tiny_package: Path, other_tiny: Path
) -> None:
    faulty_hub.publish(tiny_package)
    before = [*cache.rglob("*")]
    size = Package.open(tiny_package).size + (tiny_package / "manifest.json").stat().st_size
    plan = zoo_here.json("pull", "tiny", "--hub", faulty_hub.spec, "--dry-run")
    assert (plan["size"], plan["to_fetch"], plan["there"]) == (size, size, {})
    assert [*cache.rglob("*")] == before
    # The part that an earlier pull left is taken into account.
    part = cache / "staging" / "tiny" / plan["revision"] / "encoder.onnx.part"
    part.parent.mkdir(parents=True)
    part.write_bytes((tiny_package / "encoder.onnx").read_bytes()[:100])
    plan = zoo_here.json("pull", "tiny", "--hub", faulty_hub.spec, "--dry-run")
    assert plan["to_fetch"] == size - 100
    assert "encoder.onnx" in zoo_here("pull", "tiny", "--hub", faulty_hub.spec, "--dry-run")
    zoo_here("pull", "tiny", "--hub", faulty_hub.spec)
    assert zoo_here.json("pull", "tiny", "--hub", faulty_hub.spec, "--dry-run")["to_fetch"] == 0
    assert "--offline" in zoo_here("pull", "tiny", "--dry-run", "--offline", status=2)


@pytest.mark.parametrize("how", ["--offline", "REPZOO_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_the_cache_is_used(
    how: str,
    zoo_here: Any,
    faulty_hub: Any,
    tiny_package: Path,
    other_tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub = faulty_hub.spec
    faulty_hub.publish(tiny_package, tag="v1")
    zoo_here("pull", f"{hub}/tiny@v1", "--hub", hub)
    faulty_hub.publish(other_tiny)
    zoo_here("pull", f"{hub}/tiny")
    asked = len(faulty_hub.requests)

    options = [how] if how.startswith("--") else []
    if not options:
        monkeypatch.setenv(how, "1")
    for name, expected in (("tiny", other_tiny), ("tiny@v1", tiny_package)):
        pulled = zoo_here.json("pull", f"{hub}/{name}", *options)
        assert pulled["revision"] == revision_of(expected)
        assert pulled["hub"] is None
    # The same name from another hub may be another model.
    assert "tiny" in zoo_here("pull", "hf://another/tiny", *options, status=1)
    message = zoo_here("pull", f"{hub}/tiny@v2", *options, status=1)
    assert "offline" in message or "in the cache" in message
    if not options:
        caplog.clear()
        assert repzoo.load(f"{hub}/tiny@v1").revision == revision_of(tiny_package)
        assert caplog.records == []
        with pytest.raises(repzoo.Offline):
            repzoo.load("hf://another/tiny")
    assert len(faulty_hub.requests) == asked


def test_pulling_several_packages(
    zoo_here: Any, faulty_hub: Any, tiny_package: Path, plain_package: Path
) -> None:
    faulty_hub.publish(tiny_package)
    faulty_hub.publish(plain_package)
    pulled = zoo_here.json("pull", "tiny", "plain", "--hub", faulty_hub.spec)
    assert [each["name"] for each in pulled] == ["tiny", "plain"]
    zoo_here("rm", "plain")
    message = zoo_here("pull", "other", "plain", "--hub", faulty_hub.spec, status=1)
    assert message.splitlines()[-1] == "zoo: failed: other; pulled: plain"
    assert Cache().names() == ["plain", "tiny"]


def test_without_the_hub_the_cached_revision_is_loaded(
    faulty_hub: Any, faults: ModuleType, tiny_package: Path, caplog: pytest.LogCaptureFixture
) -> None:
    faulty_hub.publish(tiny_package)
    name = f"{faulty_hub.spec}/tiny"
    revision = repzoo.load(name).revision
    faulty_hub.misbehave("revision/main", faults.status(503), times=9)
    assert repzoo.load(name).revision == revision
    assert "using the cached revision" in caplog.text
    # A package that was pulled from a hub is looked up there, not in the public organisation.
    faulty_hub.faults.clear()
    encoder = Cache().find(TINY).path / "encoder.onnx"
    encoder.write_bytes(b"damaged")
    assert repzoo.load("tiny").revision == revision
    assert faulty_hub.starts("encoder.onnx") == [0, 0]
    assert Cache().pull(TINY).hub == faulty_hub.spec


def test_an_edited_or_missing_card_breaks_nothing(
    zoo_here: Any, faulty_hub: Any, tiny_package: Path, other_tiny: Path, tmp_path: Path
) -> None:
    edited = shutil.copytree(tiny_package, tmp_path / "tiny")
    (edited / "README.md").write_text("# Edited on the hub\n")
    (edited / "extra.py").write_text("print('not fetched')\n")
    faulty_hub.publish(edited)
    pulled = Cache().pull(TINY, faulty_hub.spec)
    assert (pulled.package.path / "README.md").read_text() == "# Edited on the hub\n"
    assert not (pulled.package.path / "extra.py").exists()
    pulled.package.verify()
    assert "already in the cache" in zoo_here("pull", "tiny", "--hub", faulty_hub.spec)

    bare = shutil.copytree(other_tiny, tmp_path / "bare")
    (bare / "README.md").unlink()
    faulty_hub.publish(bare, name="tiny")
    assert "without README.md" in zoo_here("pull", "tiny", "--hub", faulty_hub.spec)
    (bare / "README.md").write_bytes(bytes(2**20 + 1))
    faulty_hub.publish(bare, name="tiny")
    Cache().remove(TINY)
    assert Cache().pull(TINY, faulty_hub.spec).skipped == ("README.md",)


def test_files_of_another_revision_are_not_fetched_again(
    faulty_hub: Any, tiny_package: Path, tmp_path: Path
) -> None:
    faulty_hub.publish(tiny_package)
    package = Cache().pull(TINY, faulty_hub.spec).package
    newer = shutil.copytree(tiny_package, tmp_path / "tiny")
    (newer / "metrics.json").write_text('{"protocol": "another"}\n')
    write_manifest(newer)
    faulty_hub.publish(newer)
    (package.path / "golden.npz").write_bytes(b"damaged")
    pulled = Cache().pull(TINY, faulty_hub.spec)
    assert set(pulled.fetched) == {"metrics.json", "golden.npz"}
    pulled.package.verify()
    assert (pulled.package.path / "encoder.onnx").stat().st_nlink == 1


class TestTokens:
    def test_it_is_sent_to_the_hub_only(
        self,
        faulty_hub: Any,
        faults: ModuleType,
        tiny_package: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        faulty_hub.publish(tiny_package)
        with faults.FaultyHub() as store:
            commit = store.publish(tiny_package)
            there = f"http://localhost:{store.port}/org/tiny/resolve/{commit}/encoder.onnx"
            faulty_hub.misbehave("encoder.onnx", faults.redirect(there))
            Cache().pull(TINY, faulty_hub.spec).package.verify()
            assert len(store.requests) == 1
            assert [each.token for each in store.requests] == [None]
        assert {each.token for each in faulty_hub.requests} == {"Bearer hf_secret"}

    def test_a_redirect_on_the_same_host_keeps_it(
        self,
        faulty_hub: Any,
        faults: ModuleType,
        tiny_package: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        faulty_hub.token = "hf_secret"
        commit = faulty_hub.publish(tiny_package)
        faulty_hub.publish(tiny_package, name="moved")
        there = f"/org/tiny/resolve/{commit}/encoder.onnx?download=true"
        faulty_hub.misbehave("encoder.onnx", faults.redirect(there))
        Cache().pull(TINY, faulty_hub.spec).package.verify()

    @pytest.mark.parametrize(
        "target", ["file:///etc/passwd", "ftp://host/x", "http://[::1", "gopher:x", "https:///x"]
    )
    def test_strange_redirects_are_refused(
        self, target: str, faulty_hub: Any, faults: ModuleType, tiny_package: Path
    ) -> None:
        faulty_hub.publish(tiny_package)
        faulty_hub.misbehave("encoder.onnx", faults.redirect(target), times=9)
        with pytest.raises(repzoo.HubError):
            Cache().pull(TINY, faulty_hub.spec)

    def test_endless_redirects_are_refused(
        self, faulty_hub: Any, faults: ModuleType, tiny_package: Path
    ) -> None:
        faulty_hub.publish(tiny_package)
        faulty_hub.misbehave("main", faults.redirect("/x/main"), times=99)
        with pytest.raises(repzoo.HubError, match="redirects"):
            Cache().pull(TINY, faulty_hub.spec)

    def test_which_token_each_hub_gets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def token(endpoint: str) -> str | None:
            return Transport(endpoint).token()

        monkeypatch.setenv("HF_TOKEN", "hf_mine")
        assert token("https://huggingface.co") == token("http://127.0.0.1:1") == "hf_mine"
        assert token("http://localhost:1") == token("http://[::1]:1") == "hf_mine"
        # A hub that is named in a reference must not receive another hub's token.
        for other in (
            "https://hub.example",
            "http://huggingface.co",
            "https://huggingface.co.evil",
        ):
            assert token(other) is None
        monkeypatch.setenv("REPZOO_HUB_TOKEN", "ours")
        assert token("https://hub.example") == "ours"
        assert token("https://huggingface.co") == "hf_mine"
        monkeypatch.delenv("REPZOO_HUB_TOKEN")
        monkeypatch.setenv("HF_ENDPOINT", "https://hub.example/")
        assert token("https://hub.example") == "hf_mine"

    @pytest.mark.parametrize(
        ("fault", "kind", "said"),
        [
            ((401, "RepoNotFound"), repzoo.ModelNotFound, "HF_TOKEN"),
            ((404, "RepoNotFound"), repzoo.ModelNotFound, "private"),
            ((404, "RevisionNotFound"), repzoo.ModelNotFound, "revision"),
            ((404,), repzoo.ModelNotFound, "not found"),
            ((401,), repzoo.AccessDenied, "token"),
            ((403,), repzoo.AccessDenied, "token"),
            ((403, "GatedRepo"), repzoo.AccessDenied, "ask for access"),
            ((400,), repzoo.HubError, "HTTP 400"),
            ((418,), repzoo.HubError, "HTTP 418"),
            ((204,), repzoo.HubError, "HTTP 204"),
        ],
    )
    def test_refusals(
        self,
        fault: tuple[Any, ...],
        kind: type[Exception],
        said: str,
        faulty_hub: Any,
        faults: ModuleType,
        tiny_package: Path,
    ) -> None:
        faulty_hub.publish(tiny_package)
        faulty_hub.misbehave("revision/main", faults.status(*fault))
        with pytest.raises(kind, match=said) as caught:
            Cache().pull(TINY, faulty_hub.spec)
        assert faulty_hub.endpoint in str(caught.value)


class TestCache:
    """`zoo cache`."""

    def test_it_lists_verifies_and_prunes(
        self,
        zoo_here: Any,
        faulty_hub: Any,
        cache: Path,
        tiny_package: Path,
        other_tiny: Path,
        plain_package: Path,
        flip: Callable[..., None],
    ) -> None:
        hub = faulty_hub.spec
        assert "no packages" in zoo_here("cache", "list")
        assert "nothing to remove" in zoo_here("cache", "prune", "--yes")
        assert zoo_here("cache", "path").strip() == str(cache)
        for package in (tiny_package, other_tiny, plain_package):
            faulty_hub.publish(package)
            zoo_here("pull", package.name, "--hub", hub)
        first, second = revision_of(tiny_package), revision_of(other_tiny)
        lines = zoo_here.json("cache", "list")
        assert [(line["name"], line["revision"], line["current"]) for line in lines] == [
            ("plain", revision_of(plain_package), True),
            ("tiny", second, True),
            ("tiny", first, False),
        ]
        assert all(line["hub"] == hub and line["pulled"] and line["size"] for line in lines)
        assert "3 packages verified" in zoo_here("cache", "verify")

        flip(cache / "packages" / "plain" / revision_of(plain_package) / "encoder.onnx")
        message = zoo_here("cache", "verify", status=1)
        assert "plain@" in message
        assert "encoder.onnx" in message
        assert "zoo pull plain" in message
        zoo_here("pull", "plain", "--hub", hub)
        left = cache / "staging" / "tiny" / first / "encoder.onnx.part"
        left.parent.mkdir(parents=True)
        left.write_bytes(b"?")

        plan = zoo_here.json("cache", "prune", "--dry-run")
        assert len(plan["removed"]) == 3
        assert "older revision" in zoo_here("cache", "prune", "--dry-run")
        assert Cache().revisions("tiny") == sorted([first, second])
        zoo_here("cache", "prune", "--yes")
        assert Cache().revisions("tiny") == [second]
        assert not left.exists()
        assert not list((cache / "quarantine").iterdir())
        assert "2 packages verified" in zoo_here("cache", "verify")
        assert zoo_here.json("cache", "prune", "--yes") == {"removed": [], "size": 0}

    def test_it_asks_before_it_removes(
        self, zoo: Any, faulty_hub: Any, tiny_package: Path, other_tiny: Path
    ) -> None:
        for package in (tiny_package, other_tiny):
            faulty_hub.publish(package)
            Cache().pull(TINY, faulty_hub.spec)
        command = [sys.executable, "-c", "from repzoo.cli import main; main()", "cache", "prune"]
        done = subprocess.run(command, input="n\n", capture_output=True, text=True)
        assert done.returncode == 130
        assert len(Cache().revisions("tiny")) == 2
        done = subprocess.run(command, input="y\n", capture_output=True, text=True)
        assert done.returncode == 0
        assert len(Cache().revisions("tiny")) == 1

    def test_a_package_that_is_being_pulled_is_kept(
        self,
        zoo: Any,
        zoo_here: Any,
        faulty_hub: Any,
        faults: ModuleType,
        cache: Path,
        tiny_package: Path,
    ) -> None:
        faulty_hub.publish(tiny_package)
        faulty_hub.misbehave("encoder.onnx", faults.stall(100))
        process = zoo.start("pull", "tiny", "--hub", faulty_hub.spec)
        assert faulty_hub.stalled.wait(30)
        zoo_here("cache", "prune", "--yes")
        faulty_hub.released.set()
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        Cache().find(TINY).verify()


class Served:
    """A running ``zoo hub serve``."""

    def __init__(self, folder: Path, *options: str) -> None:
        zoo = Path(sysconfig.get_path("scripts")) / "zoo"
        self.process = subprocess.Popen(
            [zoo, "hub", "serve", folder, "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        found = re.match(r"Serving at (\S+)", self.process.stdout.readline())
        assert found is not None
        self.spec = found[1]

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=30)


@pytest.fixture
def served(store: Path) -> Iterator[Any]:
    """An empty store behind ``zoo hub serve``, to which anyone may publish."""
    with Served(store, "--open") as server:
        yield server


def test_published_over_http_and_pulled(
    served: Any,
    store: Path,
    tiny_package: Path,
    other_tiny: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    environment = dict(os.environ)
    hub = open_hub(served.spec)
    assert isinstance(hub, WritableHub)
    first = hub.publish(Package.open(tiny_package), message="The first", tag="v1")
    assert first == ("tiny", revision_of(tiny_package), first.commit, True)
    assert hub.publish(Package.open(tiny_package), tag="v1") == first._replace(new=False)
    for change in (
        lambda folder: (folder / "README.md").unlink(),
        lambda folder: (folder / "README.md").write_text("Better words.\n"),
        lambda folder: (folder / SIGNATURE).write_bytes(b"{}"),
    ):
        changed = shutil.copytree(tiny_package, tmp_path / "changed", dirs_exist_ok=True)
        change(changed)
        with pytest.raises(repzoo.HubError, match="tags do not move"):
            hub.publish(Package.open(changed), tag="v1")
    assert hub.revisions("tiny") == [first.commit]
    second = hub.publish(Package.open(other_tiny))
    with pytest.raises(repzoo.HubError, match="not the newest commit any more; tags do not move"):
        hub.publish(Package.open(tiny_package), tag="v1")
    assert second.new
    assert hub.names() == ["tiny"]
    assert hub.revisions("tiny") == [second.commit, first.commit]
    assert hub.tags("tiny") == {"v1": first.commit}
    with pytest.raises(repzoo.HubError, match="tags do not move"):
        hub.publish(Package.open(other_tiny), tag="v1")
    assert hub.resolve("tiny", "v1") == first.commit

    for revision, expected in ((None, second), ("v1", first), (first.commit[:8], first)):
        pulled = Cache().pull(Reference("tiny", revision), served.spec)
        assert pulled.package.revision == expected.revision
    pin = f"{served.spec}/tiny@sha256:{first.revision}"
    assert repzoo.load(pin).revision == first.revision
    assert Store(store).resolve("tiny") == second.commit

    # Publishing a package with fewer files deletes the others, but no unrelated files.
    smaller = shutil.copytree(tiny_package, tmp_path / "tiny")
    (smaller / "metrics.json").unlink()
    (smaller / SIGNATURE).write_bytes(b"{}")
    write_manifest(smaller)
    third = open_hub(served.spec).publish(Package.open(smaller))
    assert hub.signature("tiny", third.commit) == b"{}"
    assert "metrics.json" not in Cache().pull(TINY, served.spec).fetched
    with pytest.raises(repzoo.HubError, match="no such file"):
        hub.open("tiny", third.commit, "metrics.json").__enter__()

    # Nothing was printed or logged, and the environment did not change.
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""
    assert dict(os.environ) == environment


def test_small_files_may_only_have_a_git_id(
    served: Any,
    store: Path,
    tiny_package: Path,
    other_tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """huggingface.co keeps small files in Git itself without a SHA-256."""
    hub = open_hub(served.spec)
    assert isinstance(hub, WritableHub)
    first = hub.publish(Package.open(tiny_package))
    files = HuggingFaceHub.files

    def with_git_ids(self: HuggingFaceHub, name: str, commit: str) -> dict[str, RemoteFile]:
        found = {}
        for file, entry in files(self, name, commit).items():
            with Store(store).open(name, commit, file) as stream:
                content = stream.read()
            blob = b"blob %d\0" % len(content) + content
            found[file] = RemoteFile(entry.size, None, hashlib.sha1(blob).hexdigest())
        return found

    monkeypatch.setattr(HuggingFaceHub, "files", with_git_ids)
    assert hub.publish(Package.open(tiny_package), tag="v1") == first._replace(new=False)
    assert hub.resolve("tiny", first.revision) == first.commit
    assert hub.publish(Package.open(other_tiny)).new


@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # huggingface_hub's
def test_large_files_go_through_lfs(
    served: Any, store: Path, heavy_package: Path, tiny_package: Path
) -> None:
    hub = open_hub(served.spec)
    assert isinstance(hub, WritableHub)
    hub.publish(Package.open(heavy_package))
    Cache().pull(Reference("heavy"), served.spec).package.verify()
    noise = Package.open(heavy_package).manifest.files["figures/noise.png"]
    assert (store / "blobs" / "sha256" / noise.sha256).stat().st_size == noise.size


def test_concurrent_publishers_over_http(
    served: Any, store: Path, tiny_package: Path, other_tiny: Path
) -> None:
    code = (
        "import sys; from repzoo.hubs.opening import open_hub; "
        "from repzoo.packages.package import Package; "
        "print(open_hub(sys.argv[1]).publish(Package.open(sys.argv[2])).commit)"
    )
    commands = [
        [sys.executable, "-c", code, served.spec, each] for each in (tiny_package, other_tiny)
    ]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    commits = set()
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        commits.add(out.strip())
    assert len(commits) == 2
    assert commits <= set(Store(store).revisions("tiny"))


def test_a_private_package_needs_a_token(
    store: Path, tmp_path: Path, zoo_here: Any, tiny_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = tmp_path / "tokens.json"
    writer = zoo_here.json("hub", "token", "add", "me", tokens, "--write")["token"]
    reader = zoo_here.json("hub", "token", "add", "you", tokens, "--read")["token"]
    with Served(store, "--tokens", str(tokens)) as server:
        hub = open_hub(server.spec)
        assert isinstance(hub, WritableHub)
        with pytest.raises(repzoo.AccessDenied):
            hub.publish(Package.open(tiny_package), private=True)
        monkeypatch.setenv("HF_TOKEN", reader)
        with pytest.raises(repzoo.AccessDenied, match="may only read"):
            hub.publish(Package.open(tiny_package), private=True)
        monkeypatch.setenv("HF_TOKEN", writer)
        assert hub.publish(Package.open(tiny_package), private=True).new
        monkeypatch.delenv("HF_TOKEN")
        assert hub.names() == []
        with pytest.raises((repzoo.ModelNotFound, repzoo.AccessDenied), match=r"token|HF_TOKEN"):
            Cache().pull(TINY, server.spec)
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        with pytest.raises(repzoo.AccessDenied):
            Cache().pull(TINY, server.spec)
        monkeypatch.setenv("HF_TOKEN", reader)
        Cache().pull(TINY, server.spec).package.verify()


def test_a_public_package_does_not_become_private_silently(served: Any, tiny_package: Path) -> None:
    hub = open_hub(served.spec)
    assert isinstance(hub, WritableHub)
    hub.publish(Package.open(tiny_package))
    with pytest.raises(repzoo.HubError, match="public"):
        hub.publish(Package.open(tiny_package), private=True)
