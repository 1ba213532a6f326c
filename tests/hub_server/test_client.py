"""The unmodified huggingface_hub client works with the server as with the Hub."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from repzoo.hubs.opening import open_hub
from repzoo.packages.package import Package

# huggingface_hub itself causes this warning when it sends an LFS file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def test_a_package_from_creation_to_download(
    shared: Any,
    client: Callable[..., Any],
    zoo_here: Any,
    tiny_package: Path,
    large_file: Path,
    tmp_path: Path,
) -> None:
    api = client(shared.url, shared.tokens.write)
    assert api.whoami()["name"] == "writer"
    assert not api.repo_exists("zoo/tiny")
    url = api.create_repo("zoo/tiny")
    assert (url, url.repo_id) == (f"{shared.url}/zoo/tiny", "zoo/tiny")
    assert api.create_repo("tiny", exist_ok=True) == url  # the hub's own organisation
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_repo("zoo/tiny")
    assert caught.value.response.status_code == 409

    first = api.upload_folder(repo_id="zoo/tiny", folder_path=tiny_package, commit_message="One")
    assert first.commit_url == f"{shared.url}/zoo/tiny/commit/{first.oid}"
    second = api.upload_file(
        repo_id="zoo/tiny",
        path_or_fileobj=large_file,
        path_in_repo="extra/large.bin",
        commit_message="Two",
        commit_description="Large",
    )
    api.create_tag("zoo/tiny", tag="v1", revision=first.oid)
    assert api.list_repo_refs("zoo/tiny").tags[0].target_commit == first.oid
    assert api.list_repo_refs("zoo/tiny").branches[0].target_commit == second.oid
    commits = api.list_repo_commits("zoo/tiny")
    assert [commit.title for commit in commits] == ["Two", "One", "initial commit"]
    # A repository's empty first commit is not a revision of the package.
    info = json.loads(zoo_here("info", "tiny", "--hub", f"{shared.url}/zoo", "--json"))
    assert info["revisions"] == [second.oid, first.oid]
    assert commits[0].message == "Large"
    assert commits[1].commit_id == first.oid

    large = hashlib.sha256(large_file.read_bytes()).hexdigest()
    for revision, commit, complete in (
        (None, second.oid, True),
        ("main", second.oid, True),
        ("v1", first.oid, False),
        (first.oid, first.oid, False),
        (first.oid[:8], first.oid, False),
    ):
        info = api.model_info("zoo/tiny", revision=revision, files_metadata=True)
        assert info.sha == commit
        files = {each.rfilename: each for each in info.siblings}
        assert ("extra/large.bin" in files) == complete
        encoder = tiny_package / "encoder.onnx"
        digest = hashlib.sha256(encoder.read_bytes()).hexdigest()
        assert files["encoder.onnx"].lfs.sha256 == digest
        assert set(api.list_repo_files("zoo/tiny", revision=revision)) == set(files)
        cache = tmp_path / "cache"
        snapshot = Path(api.snapshot_download("zoo/tiny", revision=revision, cache_dir=cache))
        assert snapshot.name == commit
        folder = tmp_path / f"copy-{revision}"
        api.snapshot_download("zoo/tiny", revision=revision, local_dir=folder)
        assert Package.open(folder).revision == Package.open(tiny_package).revision
        if complete:
            got = (folder / "extra" / "large.bin").read_bytes()
            assert hashlib.sha256(got).hexdigest() == large
    file = api.hf_hub_download("zoo/tiny", "config.json", revision="v1", cache_dir=tmp_path / "one")
    assert Path(file).read_bytes() == (tiny_package / "config.json").read_bytes()
    assert api.verify_repo_checksums("zoo/tiny", local_dir=str(folder)).mismatches == []

    # A package that was uploaded over HTTP can also be found by its manifest's SHA-256.
    hub = open_hub(shared.store)
    assert "tiny" in hub.names()
    assert hub.resolve("tiny", Package.open(tiny_package).revision) == second.oid
    hub_files = {path.name for path in (shared.store / "incoming").iterdir()}
    assert hub_files == set()

    api.delete_tag("zoo/tiny", tag="v1")
    assert api.list_repo_refs("zoo/tiny").tags == []
    with pytest.raises(RevisionNotFoundError):
        api.delete_tag("zoo/tiny", tag="v1")


def test_listing_and_searching(
    shared: Any, client: Callable[..., Any], tiny_package: Path, tmp_path: Path
) -> None:
    api = client(shared.url, shared.tokens.write)
    card = (
        "---\nlicense: mit\ntags: [lists, digits]\ndatasets: [mnist]\npipeline_tag: x\n---\n# Hi\n"
    )
    for name in ("lists-one", "lists-two"):
        package = shutil.copytree(tiny_package, tmp_path / name)
        (package / "README.md").write_text(card)
        api.create_repo(f"zoo/{name}")
        api.upload_folder(repo_id=f"zoo/{name}", folder_path=package)

    def found(**query: Any) -> list[str]:
        return [each.id for each in api.list_models(**query)]

    both = ["zoo/lists-one", "zoo/lists-two"]
    assert found(filter="lists") == both
    assert found(filter=["lists", "dataset:mnist", "license:mit"]) == both
    assert found(filter="lists", pipeline_tag="x") == both
    assert found(trained_dataset="mnist", search="lists") == both
    assert found(filter=["lists", "nothing"]) == []
    assert found(search="lists-t") == ["zoo/lists-two"]
    assert found(search="LISTS one") == ["zoo/lists-one"]
    assert found(filter="lists", limit=1) == both[:1]
    assert found(filter="lists", author="zoo") == both
    assert found(filter="lists", author="someone") == []
    assert found(filter="lists", sort="last_modified") == both[::-1]
    model = next(iter(api.list_models(search="lists-one", full=True, cardData=True)))
    assert model.card_data.license == "mit"
    assert "encoder.onnx" in {each.rfilename for each in model.siblings}
    assert model.last_modified is not None
    assert not model.private


def test_trees_and_paths(shared: Any, client: Callable[..., Any]) -> None:
    api = client(shared.url, shared.tokens.write)
    api.create_repo("zoo/trees")
    paths = ["a/b/c.txt", "a/d.txt", "e f.txt", "ü/%41.txt"]
    operations = [CommitOperationAdd(path, path.encode()) for path in paths]
    api.create_commit("zoo/trees", operations, commit_message="Trees")

    def tree(*args: Any, **query: Any) -> list[str]:
        return [each.path for each in api.list_repo_tree("zoo/trees", *args, **query)]

    assert tree() == ["a", "e f.txt", "ü"]
    assert tree("a") == ["a/b", "a/d.txt"]
    assert tree(recursive=True) == ["a", "a/b", "a/b/c.txt", "a/d.txt", "e f.txt", "ü", "ü/%41.txt"]
    with pytest.raises(EntryNotFoundError):
        tree("b")
    infos = api.get_paths_info("zoo/trees", ["a", "a/d.txt", "nothing", "ü/%41.txt"])
    assert [each.path for each in infos] == ["a", "a/d.txt", "ü/%41.txt"]
    assert infos[1].size == 7
    for path in paths:
        assert api.file_exists("zoo/trees", path)
    assert not api.file_exists("zoo/trees", "a/b")
    assert not api.file_exists("zoo/nothing", "a/b")


def test_every_kind_of_change(
    shared: Any, client: Callable[..., Any], large_file: Path, tmp_path: Path
) -> None:
    api = client(shared.url, shared.tokens.write)
    api.create_repo("zoo/changes")
    start = api.model_info("zoo/changes").sha
    large = CommitOperationAdd("old/large.bin", str(large_file))
    operations = [
        large,
        CommitOperationAdd("old/note.txt", b"a note"),
        CommitOperationAdd("x", b""),
    ]
    first = api.create_commit(
        "zoo/changes", operations, commit_message="1", parent_commit=start[:7]
    )
    # Files that the hub has are neither sent nor committed again.
    again = [CommitOperationAdd("x", b""), CommitOperationAdd("old/note.txt", b"a note")]
    assert api.create_commit("zoo/changes", again, commit_message="2").oid == first.oid
    moves = [
        CommitOperationCopy("old/large.bin", "new/large.bin"),
        CommitOperationCopy("old/note.txt", "new/note.txt"),
        CommitOperationDelete("old/"),
        CommitOperationDelete("x"),
    ]
    second = api.create_commit("zoo/changes", moves, commit_message="3", parent_commit=first.oid)
    assert set(api.list_repo_files("zoo/changes")) == {"new/large.bin", "new/note.txt"}
    got = api.hf_hub_download("zoo/changes", "new/large.bin", cache_dir=tmp_path)
    assert Path(got).read_bytes() == large_file.read_bytes()

    with pytest.raises(HfHubHTTPError) as caught:
        api.create_commit(
            "zoo/changes",
            [CommitOperationAdd("y", b"y")],
            commit_message="4",
            parent_commit=first.oid,
        )
    assert caught.value.response.status_code == 412
    assert "is now at" in str(caught.value)
    for path in ("nothing", "nothing/", "new", "new/large.bin/"):
        with pytest.raises(EntryNotFoundError):
            api.create_commit("zoo/changes", [CommitOperationDelete(path)], commit_message="5")
    wrong = CommitOperationAdd("new/note.txt/below", b"")
    with pytest.raises(BadRequestError, match="is a file"):
        api.create_commit("zoo/changes", [wrong], commit_message="6")
    assert api.model_info("zoo/changes").sha == second.oid


def test_unsupported_operations_are_refused_with_a_reason(
    shared: Any, client: Callable[..., Any]
) -> None:
    api = client(shared.url, shared.tokens.write)
    api.create_repo("zoo/refused")
    text = CommitOperationAdd("x", b"x")
    refused: dict[str, Callable[[], object]] = {
        "only zoo": lambda: api.create_repo("someone/refused"),
        "only holds models": lambda: api.create_repo("zoo/data", repo_type="dataset"),
        "lower-case": lambda: api.create_repo("zoo/Refused"),
        "cannot be deleted": lambda: api.delete_repo("zoo/refused"),
        "only the branch main": lambda: api.create_branch("zoo/refused", branch="x"),
        "no pull requests": lambda: api.create_commit(
            "zoo/refused", [text], commit_message="x", create_pr=True
        ),
        "not a valid tag": lambda: api.create_tag("zoo/refused", tag="a/b"),
        "not valid YAML": lambda: api.upload_file(
            repo_id="zoo/refused", path_or_fileobj=b"---\n[\n---\n", path_in_repo="README.md"
        ),
    }
    for reason, attempt in refused.items():
        with pytest.raises((HfHubHTTPError, ValueError), match=reason):
            attempt()
    assert len(api.list_repo_commits("zoo/refused")) == 1
    with pytest.raises(RevisionNotFoundError):
        api.create_commit("zoo/refused", [text], commit_message="x", revision="dev")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("someone/refused")


def test_tags_do_not_move(shared: Any, client: Callable[..., Any]) -> None:
    api = client(shared.url, shared.tokens.write)
    api.create_repo("zoo/tags")
    first = api.model_info("zoo/tags").sha
    api.upload_file(repo_id="zoo/tags", path_or_fileobj=b"x", path_in_repo="x")
    api.create_tag("zoo/tags", tag="v1", revision=first)
    api.create_tag("zoo/tags", tag="v1", revision=first, exist_ok=True)
    for revision in (first, "main"):
        with pytest.raises(HfHubHTTPError) as caught:
            api.create_tag("zoo/tags", tag="v1", revision=revision)
        assert caught.value.response.status_code == 409
    assert api.model_info("zoo/tags", revision="v1").sha == first


def test_an_interrupted_download_is_resumed(
    shared: Any, client: Callable[..., Any], large_file: Path, tmp_path: Path
) -> None:
    from huggingface_hub.file_download import http_get

    api = client(shared.url, shared.tokens.write)
    api.create_repo("zoo/resumed")
    api.upload_file(repo_id="zoo/resumed", path_or_fileobj=large_file, path_in_repo="large.bin")
    whole = large_file.read_bytes()
    part = tmp_path / "part"
    part.write_bytes(whole[:20_000_000])
    with part.open("ab") as file:
        url = f"{shared.url}/zoo/resumed/resolve/main/large.bin"
        http_get(url, file, resume_size=20_000_000, expected_size=len(whole))
    assert part.read_bytes() == whole
    log = shared.server.log.read_text().splitlines()
    (line,) = [line for line in log if " 206 " in line and "resumed" in line]
    assert "9.5 MiB out" in line


def test_a_flat_folder_is_read_only(
    serve: Callable[..., Any],
    client: Callable[..., Any],
    tiny_package: Path,
    plain_package: Path,
    tmp_path: Path,
) -> None:
    hub = tmp_path / "hub"
    shutil.copytree(tiny_package, hub / "tiny")
    shutil.copytree(plain_package, hub / "plain")
    (hub / "tiny" / "README.md").write_text("An edited card, longer or shorter than the other.\n")
    (hub / "tiny" / "secret.txt").write_text("not of the package")
    server = serve(hub, "--open")
    assert "read-only" in server.rules
    api = client(server.url)
    assert [each.id for each in api.list_models()] == ["zoo/plain", "zoo/tiny"]
    revision = Package.open(tiny_package).revision
    commit = api.model_info("zoo/tiny").sha
    assert commit == revision[:40]
    for wanted in (None, "main", commit, revision, revision[:8]):
        folder = tmp_path / f"copy-{wanted}"
        api.snapshot_download("zoo/tiny", revision=wanted, local_dir=folder)
    assert Package.open(folder).revision == revision
    assert (folder / "README.md").read_text().startswith("An edited card")
    assert not (folder / "secret.txt").exists()
    with pytest.raises(RevisionNotFoundError):
        api.model_info("zoo/tiny", revision="v1")
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download("zoo/tiny", "secret.txt", cache_dir=tmp_path / "cache")
    for attempt in (
        lambda: api.create_repo("zoo/new"),
        lambda: api.create_tag("zoo/tiny", tag="v1"),
        lambda: api.upload_file(repo_id="zoo/tiny", path_or_fileobj=b"", path_in_repo="x"),
    ):
        with pytest.raises(HfHubHTTPError, match="read-only"):
            attempt()
    os.truncate(hub / "tiny" / "encoder.onnx", 10)
    with pytest.raises(HfHubHTTPError) as caught:
        api.hf_hub_download("zoo/tiny", "encoder.onnx", cache_dir=tmp_path / "other")
    assert caught.value.response.status_code == 500
