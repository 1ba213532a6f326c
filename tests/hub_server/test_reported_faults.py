"""Faults that users of hubs reported, each reproduced against a real server with real clients."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import repzoo
from huggingface_hub import HfFileSystem, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from repzoo.cache.cache import Cache
from repzoo.hub import WritableHub
from repzoo.hubs.opening import open_hub
from repzoo.packages.package import Package
from repzoo.packages.reference import Reference
from repzoo.store.fsck import check
from repzoo.store.store import Store

CARD = "---\nlicense: mit\n---\n# A model\n"

#: Ways to break a revision of a package on a hub.
BREAKS: dict[str, Callable[[Any], object]] = {
    "deleted": lambda api: api.delete_file("encoder.onnx", "zoo/tiny"),
    "overwritten": lambda api: api.upload_file(
        repo_id="zoo/tiny", path_or_fileobj=b"?", path_in_repo="encoder.onnx"
    ),
    "small": lambda api: api.upload_file(
        repo_id="zoo/tiny", path_or_fileobj=b"{}", path_in_repo="config.json"
    ),
    "folder": lambda api: api.delete_folder("probes", "zoo/tiny"),
    "manifest": lambda api: api.delete_file("manifest.json", "zoo/tiny"),
    "added": lambda api: api.upload_file(
        repo_id="zoo/tiny", path_or_fileobj=b"?", path_in_repo="probes/new.linear.onnx"
    ),
    "card": lambda api: api.upload_file(
        repo_id="zoo/tiny", path_or_fileobj=CARD.encode(), path_in_repo="README.md"
    ),
}


@pytest.fixture
def zoo(tmp_path: Path) -> Callable[..., str]:
    """``zoo(*WORDS, status=0, **ENVIRONMENT)``: the command in a process; returns its output."""

    def run(*words: str | Path, status: int = 0, **environment: str) -> str:
        inherited = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        process = subprocess.run(
            [str(Path(sysconfig.get_path("scripts")) / "zoo"), *map(str, words)],
            env={**inherited, "HF_HOME": str(tmp_path / "hf"), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert process.returncode == status, process.stdout
        assert "Traceback" not in process.stdout
        return process.stdout

    return run


def publish(url: str, package: Path, **options: Any) -> Any:
    hub = open_hub(f"{url}/zoo")
    assert isinstance(hub, WritableHub)
    return hub.publish(Package.open(package), **options)


class TestPublishingWithoutTheRight:
    @pytest.mark.parametrize("exists", [False, True])
    def test_without_a_token_the_message_says_how_to_set_one(
        self,
        exists: bool,
        serve: Callable[..., Any],
        store: Path,
        tokens: Any,
        tiny_package: Path,
        zoo: Callable[..., str],
    ) -> None:
        if exists:
            Store(store).publish(Package.open(tiny_package))
        server = serve(store, "--tokens", tokens.file)
        words = ("publish", tiny_package, "--hub", f"{server.url}/zoo", "--files-only")
        (line,) = zoo(*words, "--tag", "v1", status=1).splitlines()
        if exists:  # nothing to change but the tag
            assert "HF_TOKEN" in line
        else:
            assert line.endswith("publishing needs a token: set HF_TOKEN, or run hf auth login")
        (line,) = zoo(*words, "--tag", "v1", status=1, HF_TOKEN="zoo_wrong").splitlines()
        assert "the token is not valid on this hub" in line
        (line,) = zoo(*words, "--tag", "v1", status=1, HF_TOKEN=tokens.read).splitlines()
        assert "the token reader may only read" in line
        assert "HF_TOKEN" not in line
        zoo(*words, "--tag", "v1", HF_TOKEN=tokens.write)

    def test_a_wrong_organisation_gets_no_advice_on_tokens(
        self, shared: Any, tiny_package: Path, zoo: Callable[..., str]
    ) -> None:
        words = ("publish", tiny_package, "--hub", f"{shared.url}/other", "--files-only")
        for environment in ({}, {"HF_TOKEN": shared.tokens.write}):
            for more in ((), ("--private",)):
                line = zoo(*words, *more, status=1, **environment).splitlines()[-1]
                assert "no organisation 'other', only zoo" in line, line
                assert "token" not in line.lower()
        for words in (("pull", "tiny"), ("pull", "tiny@v1"), ("info", "tiny")):
            line = zoo(*words, "--hub", f"{shared.url}/other", status=1).splitlines()[-1]
            assert "no organisation 'other', only zoo" in line, line
            assert "token" not in line.lower()


class TestBrokenRevisions:
    """A revision whose files were deleted or changed on the hub."""

    @pytest.mark.parametrize("what", [*BREAKS])
    def test_publishing_again_repairs_it(
        self,
        what: str,
        serve: Callable[..., Any],
        client: Callable[..., Any],
        store: Path,
        tiny_package: Path,
    ) -> None:
        server = serve(store, "--open")
        api = client(server.url)
        first = publish(server.url, tiny_package)
        BREAKS[what](api)
        broken = api.model_info("zoo/tiny").sha
        assert broken != first.commit
        pin = Reference.parse(f"tiny@sha256:{first.revision}")
        harmless = what in ("added", "card", "manifest")
        assert bool(check(Store(store)).faults) != harmless
        # The digest still means the commit that has all files.
        assert open_hub(f"{server.url}/zoo").resolve("tiny", first.revision) in (
            (first.commit, broken) if harmless else (first.commit,)
        )
        assert Store(store).resolve("tiny", first.revision) in (
            (first.commit, broken) if harmless else (first.commit,)
        )

        again = publish(server.url, tiny_package, tag="v1")
        assert again.new
        assert again.commit not in (first.commit, broken)
        assert check(Store(store)).faults == []
        assert set(api.list_repo_files("zoo/tiny")) == {
            path.relative_to(tiny_package).as_posix()
            for path in tiny_package.rglob("*")
            if path.is_file()
        }
        for reference in (pin, Reference("tiny", "v1"), Reference("tiny")):
            Cache().remove(Reference("tiny")) if Cache().names() else None
            Cache().pull(reference, f"{server.url}/zoo").package.verify()
        assert publish(server.url, tiny_package, tag="v1") == again._replace(new=False)

    def test_a_tag_is_not_moved_to_the_repaired_revision(
        self,
        serve: Callable[..., Any],
        client: Callable[..., Any],
        store: Path,
        tiny_package: Path,
        zoo: Callable[..., str],
    ) -> None:
        server = serve(store, "--open")
        api = client(server.url)
        publish(server.url, tiny_package, tag="v1")
        api.delete_file("encoder.onnx", "zoo/tiny")
        api.create_tag("zoo/tiny", tag="broken")
        with pytest.raises(repzoo.HubError, match=r"tag broken.*encoder\.onnx differs"):
            publish(server.url, tiny_package, tag="broken")
        faults = check(Store(store)).faults
        assert [fault.split(":")[1] for fault in faults] == [
            " encoder.onnx is missing, but in manifest.json"
        ] * 2
        assert "2 faults" in zoo("hub", "fsck", store, status=1)
        # A prune does not take what the older, whole revision needs.
        check(Store(store), prune=True, grace=0)
        Cache().pull(Reference("tiny", "v1"), f"{server.url}/zoo").package.verify()

    def test_a_revision_that_is_nowhere_whole_is_an_error_with_advice(
        self, serve: Callable[..., Any], client: Callable[..., Any], store: Path, tiny_package: Path
    ) -> None:
        server = serve(store, "--open")
        api = client(server.url)
        api.create_repo("zoo/tiny")
        api.upload_folder(
            repo_id="zoo/tiny", folder_path=tiny_package, ignore_patterns=["encoder.onnx"]
        )
        revision = Package.open(tiny_package).revision
        for hub in (open_hub(f"{server.url}/zoo"), Store(store)):
            with pytest.raises(repzoo.ModelNotFound, match="publish the package again"):
                hub.resolve("tiny", revision)
        assert publish(server.url, tiny_package).new
        for hub in (open_hub(f"{server.url}/zoo"), Store(store)):
            hub.resolve("tiny", revision)


class TestTheClientsOfTheHub:
    def test_cards_can_be_pushed_although_the_client_validates_them_without_a_token(
        self, shared: Any, client: Callable[..., Any], tmp_path: Path
    ) -> None:
        api = client(shared.url, shared.tokens.write)
        api.create_repo("zoo/carded")
        code = f"""
from huggingface_hub import ModelCard, metadata_update
ModelCard({CARD!r}).push_to_hub("zoo/carded")
metadata_update("zoo/carded", {{"tags": ["new"]}})
print(ModelCard.load("zoo/carded").data.tags)
"""
        environment = {
            "HF_ENDPOINT": shared.url,
            "HF_HOME": str(tmp_path),
            "HF_TOKEN": shared.tokens.write,
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        command = [sys.executable, "-c", code]
        process = subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, check=False
        )
        assert process.stdout == "['new']\n", process.stderr

    def test_a_large_card_does_not_hold_up_the_server(self, shared: Any) -> None:
        yaml = "---\n" + "a: [" + "[" * 10_000 + "\n---\n"
        huge = "---\n" + "".join(f"key{number}: [1, 2]\n" for number in range(150_000)) + "---\n"
        with shared.server.http() as http:
            for text, reason in ((yaml, "YAML"), (huge, "longer than 65536")):
                answer = http.post("/api/validate-yaml", json={"content": text})
                assert answer.status_code == 400
                assert reason in answer.json()["error"]
                assert answer.elapsed.total_seconds() < 10
            for body in ({}, {"content": 3}):
                assert http.post("/api/validate-yaml", json=body).status_code == 400

    def test_what_does_not_exist_is_false_and_not_an_error(
        self, shared: Any, client: Callable[..., Any], tmp_path: Path
    ) -> None:
        api = client(shared.url, shared.tokens.write)
        api.create_repo("zoo/existing")
        for kind in ("dataset", "space"):
            assert not api.repo_exists("zoo/existing", repo_type=kind)
            assert not api.file_exists("zoo/existing", "x", repo_type=kind)
            with pytest.raises(RepositoryNotFoundError, match="only holds models"):
                api.repo_info("zoo/existing", repo_type=kind)
            with pytest.raises(RepositoryNotFoundError):
                api.hf_hub_download("zoo/existing", "x", repo_type=kind, cache_dir=tmp_path)
        assert list(api.list_datasets()) == list(api.list_spaces()) == []
        for revision in ("refs/pr/1", "refs/heads/dev", "refs/tags/v9", "feature/x", "refs/main"):
            assert not api.revision_exists("zoo/existing", revision)
            with pytest.raises(RevisionNotFoundError):
                api.list_repo_files("zoo/existing", revision=revision)
            with pytest.raises(RevisionNotFoundError):
                list(api.list_repo_tree("zoo/existing", revision=revision))
            with pytest.raises(RevisionNotFoundError):
                api.list_repo_commits("zoo/existing", revision=revision)

    def test_full_names_of_refs_are_revisions(
        self, shared: Any, client: Callable[..., Any], tmp_path: Path
    ) -> None:
        api = client(shared.url, shared.tokens.write)
        api.create_repo("zoo/refs")
        api.upload_file(repo_id="zoo/refs", path_or_fileobj=b"old", path_in_repo="a/b.txt")
        api.create_tag("zoo/refs", tag="v1")
        api.upload_file(
            repo_id="zoo/refs",
            path_or_fileobj=b"new",
            path_in_repo="a/b.txt",
            revision="refs/heads/main",
        )
        for revision, content in (("refs/heads/main", "new"), ("refs/tags/v1", "old")):
            assert api.revision_exists("zoo/refs", revision)
            assert api.list_repo_files("zoo/refs", revision=revision) == ["a/b.txt"]
            tree = api.list_repo_tree("zoo/refs", "a", revision=revision)
            assert [each.path for each in tree] == ["a/b.txt"]
            assert api.get_paths_info("zoo/refs", ["a/b.txt"], revision=revision)[0].size == 3
            file = hf_hub_download(
                "zoo/refs", "a/b.txt", revision=revision, endpoint=shared.url, cache_dir=tmp_path
            )
            assert Path(file).read_text() == content
            folder = snapshot_download(
                "zoo/refs", revision=revision, endpoint=shared.url, cache_dir=tmp_path
            )
            assert (Path(folder) / "a/b.txt").read_text() == content
            fs = HfFileSystem(endpoint=shared.url, token=False)
            assert fs.cat("zoo/refs/a/b.txt", revision=revision) == content.encode()
        # A branch of that name does not exist.
        assert not api.revision_exists("zoo/refs", "refs/heads/v1")

    def test_what_is_not_supported_is_refused_with_a_reason(
        self, shared: Any, client: Callable[..., Any]
    ) -> None:
        api = client(shared.url, shared.tokens.write)
        api.create_repo("zoo/unsupported")
        unsupported: list[Callable[[], object]] = [
            lambda: api.create_discussion("zoo/unsupported", title="Hello"),
            lambda: api.create_pull_request("zoo/unsupported", title="Hello"),
            lambda: list(api.get_repo_discussions("zoo/unsupported")),
            lambda: api.super_squash_history("zoo/unsupported"),
            lambda: api.move_repo("zoo/unsupported", "zoo/moved"),
            lambda: list(api.list_repo_likers("zoo/unsupported")),
            lambda: api.list_collections(owner="zoo").__next__(),
            lambda: api.get_user_overview("zoo"),
        ]
        for attempt in unsupported:
            with pytest.raises(HfHubHTTPError, match="this hub does not support"):
                attempt()


class TestProxies:
    DEAD = "http://127.0.0.1:1"

    @pytest.mark.parametrize(
        "proxies",
        [
            {"ALL_PROXY": "socks://127.0.0.1:1"},
            {"all_proxy": "socks5h://127.0.0.1:1"},
            {"ALL_PROXY": "socks://127.0.0.1:1", "NO_PROXY": "127.0.0.1,localhost"},
            {"HTTP_PROXY": DEAD, "HTTPS_PROXY": DEAD},
            {"http_proxy": "nonsense://x y"},
            {"ALL_PROXY": "127.0.0.1:1"},
        ],
    )
    def test_this_machine_needs_no_proxy(
        self,
        proxies: dict[str, str],
        serve: Callable[..., Any],
        store: Path,
        tiny_package: Path,
        zoo: Callable[..., str],
    ) -> None:
        server = serve(store, "--open")
        hub = f"{server.url}/zoo"
        assert "published" in zoo(
            "publish", tiny_package, "--hub", hub, "--files-only", "--tag", "v1", **proxies
        )
        assert "tiny" in zoo("list", "--hub", hub, **proxies)
        assert "pulled" in zoo("pull", "tiny", "--hub", hub, **proxies)

    @pytest.mark.parametrize(
        ("proxies", "reason"),
        [
            ({"ALL_PROXY": "socks://me:secret@127.0.0.1:1"}, "scheme is not http"),
            ({"all_proxy": "socks5://me:secret@127.0.0.1:1"}, r"httpx2\[socks\]"),
            ({"HTTP_PROXY": "ftp://me:secret@127.0.0.1:1"}, "scheme is not http"),
            ({"HTTP_PROXY": "http://[::1"}, "not a URL"),
        ],
    )
    def test_a_proxy_that_cannot_be_used_is_named_without_its_password(
        self,
        proxies: dict[str, str],
        reason: str,
        tiny_package: Path,
        zoo: Callable[..., str],
    ) -> None:
        hub = "http://hub.example/zoo"
        for words in (
            ("list", "--hub", hub),
            ("pull", "tiny", "--hub", hub),
            ("publish", tiny_package, "--hub", hub, "--files-only"),
        ):
            (line,) = zoo(*words, status=1, **proxies).splitlines()
            assert f"the proxy in {next(iter(proxies))}" in line
            assert re.search(reason, line)
            assert "add hub.example to NO_PROXY" in line
            assert "secret" not in line

    def test_the_error_of_a_dead_proxy_names_its_variable(self, zoo: Callable[..., str]) -> None:
        message = zoo("list", "--hub", "http://hub.example/zoo", status=1, HTTP_PROXY=self.DEAD)
        assert "(through the proxy in HTTP_PROXY)" in message

    @pytest.mark.parametrize(
        ("variable", "value", "said"),
        [
            ("SSL_CERT_FILE", "/nope", "check SSL_CERT_FILE"),
            ("SSL_CERT_FILE", "/etc/passwd", "check SSL_CERT_FILE"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "soon", "HF_HUB_DOWNLOAD_TIMEOUT is not valid"),
            ("HF_ENDPOINT", "http://[", "HF_ENDPOINT"),
            ("HF_TOKEN", "h\u00fc", "characters that a token cannot have"),
        ],
    )
    def test_other_variables_that_cannot_be_used_are_named(
        self,
        variable: str,
        value: str,
        said: str,
        shared: Any,
        tiny_package: Path,
        zoo: Callable[..., str],
    ) -> None:
        hub = f"{shared.url}/zoo"
        for words in (("list",), ("pull", "tiny"), ("publish", tiny_package, "--files-only")):
            (line,) = zoo(*words, "--hub", hub, status=1, **{variable: value}).splitlines()
            assert said in line
            assert "h\u00fc" not in line

    def test_a_host_in_no_proxy_is_asked_directly(self, zoo: Callable[..., str]) -> None:
        message = zoo(
            "list",
            "--hub",
            "http://hub.invalid/zoo",
            status=1,
            ALL_PROXY="socks://127.0.0.1:1",
            NO_PROXY="hub.invalid",
        )
        assert "PROXY" not in message
        assert "http://hub.invalid" in message
