"""Access rules: tokens, private repositories, private and open hubs."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from repzoo.packages.package import Package
from repzoo.secrets_file import SecretFile
from repzoo.store.store import Store


def status_of(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    status: int = error.value.response.status_code
    return status


def test_missing_things_raise_the_right_exception(shared: Any, client: Callable[..., Any]) -> None:
    api = client(shared.url, shared.tokens.write)
    api.create_repo("zoo/absent")
    api.upload_file(repo_id="zoo/absent", path_or_fileobj=b"x", path_in_repo="x")
    for token, status in ((shared.tokens.read, 404), (False, 401)):
        reader = client(shared.url, token)
        with pytest.raises(RepositoryNotFoundError) as repository:
            reader.model_info("zoo/nothing")
        assert status_of(repository) == status
        with pytest.raises(RepositoryNotFoundError):
            reader.hf_hub_download("zoo/nothing", "x", cache_dir=shared.store.parent / "cache")
        with pytest.raises(RevisionNotFoundError):
            reader.model_info("zoo/absent", revision="v9")
        with pytest.raises(RevisionNotFoundError):
            reader.list_repo_files("zoo/absent", revision="0" * 40)
        with pytest.raises(EntryNotFoundError) as entry:
            reader.hf_hub_download("zoo/absent", "y", cache_dir=shared.store.parent / "cache")
        assert status_of(entry) == 404
        assert not reader.repo_exists("zoo/nothing")
        assert not reader.revision_exists("zoo/absent", "v9")
        assert not reader.file_exists("zoo/absent", "y")


def test_writing_needs_a_token_with_the_role_write(shared: Any, client: Callable[..., Any]) -> None:
    api = client(shared.url, shared.tokens.write)
    api.create_repo("zoo/guarded")
    before = api.model_info("zoo/guarded").sha
    reasons = {
        False: (401, "needs a token"),
        "zoo_wrong": (401, "not valid on this hub"),
        shared.tokens.read: (403, "may only read"),
    }
    for token, (status, reason) in reasons.items():
        other = client(shared.url, token)
        attempts: list[Callable[[], object]] = [
            lambda other=other: other.create_repo("zoo/guarded-too"),
            lambda other=other: other.upload_file(
                repo_id="zoo/guarded", path_or_fileobj=b"x", path_in_repo="x"
            ),
            lambda other=other: other.create_tag("zoo/guarded", tag="v1"),
            lambda other=other: other.delete_tag("zoo/guarded", tag="v1"),
            lambda other=other: other.update_repo_settings("zoo/guarded", private=True),
        ]
        for attempt in attempts:
            with pytest.raises(HfHubHTTPError, match=reason) as caught:
                attempt()
            assert status_of(caught) == status
            # Not RepositoryNotFoundError, which the client raises for many 401 responses.
            assert type(caught.value) is HfHubHTTPError
    with pytest.raises(HfHubHTTPError) as caught:
        client(shared.url, "zoo_wrong").whoami()
    assert status_of(caught) == 401
    with pytest.raises(HfHubHTTPError) as caught:
        client(shared.url, "zoo_wrong").model_info("zoo/guarded")
    assert status_of(caught) == 401
    assert api.model_info("zoo/guarded").sha == before
    assert not api.repo_exists("zoo/guarded-too")


def test_private_repositories_need_a_token(
    shared: Any, client: Callable[..., Any], tmp_path: Path
) -> None:
    api = client(shared.url, shared.tokens.write)
    api.create_repo("zoo/hidden", private=True)
    api.upload_file(repo_id="zoo/hidden", path_or_fileobj=b"secret", path_in_repo="x.txt")
    commit = api.model_info("zoo/hidden").sha
    reader, anyone = client(shared.url, shared.tokens.read), client(shared.url)
    assert reader.model_info("zoo/hidden").private
    file = reader.hf_hub_download("zoo/hidden", "x.txt", cache_dir=tmp_path)
    assert Path(file).read_text() == "secret"
    assert "zoo/hidden" in [each.id for each in reader.list_models()]

    assert "zoo/hidden" not in [each.id for each in anyone.list_models()]
    # A private repository and a missing one get exactly the same responses.
    with shared.server.http() as http:
        for path in (
            "/api/models/zoo/{}",
            "/api/models/zoo/{}/tree/main",
            "/api/models/zoo/{}/refs",
            "/api/models/zoo/{}/commits/main",
            "/api/models/zoo/{}/revision/" + commit,
            "/zoo/{}/resolve/main/x.txt",
            "/zoo/{}/resolve/" + commit + "/x.txt",
            "/zoo/{}",
        ):
            hidden, nothing = (http.get(path.format(name)) for name in ("hidden", "nothin"))
            assert hidden.status_code == 401
            assert hidden.text.replace("hidden", "nothin") == nothing.text
            assert hidden.headers.keys() == nothing.headers.keys()
        assert "hidden" not in http.get("/").text
    api.update_repo_settings("zoo/hidden", private=False)
    assert anyone.model_info("zoo/hidden").sha == commit


def test_a_private_hub_shows_nothing_without_a_token(
    serve: Callable[..., Any],
    client: Callable[..., Any],
    store: Path,
    tokens: Any,
    tiny_package: Path,
) -> None:
    Store(store).publish(Package.open(tiny_package))
    server = serve(store, "--tokens", tokens.file, "--private")
    assert "Any token may read" in server.rules
    assert client(server.url, tokens.read).model_info("zoo/tiny").sha
    for attempt in ("model_info", "list_repo_files"):
        with pytest.raises(HfHubHTTPError) as caught:
            getattr(client(server.url), attempt)("zoo/tiny")
        assert status_of(caught) == 401
    with pytest.raises(HfHubHTTPError):
        list(client(server.url).list_models())
    with server.http() as http:
        for path in ("/", "/zoo", "/zoo/tiny", "/zoo/tiny/resolve/main/config.json", "/api/x"):
            response = http.get(path)
            assert response.status_code in (401, 404)
            assert "tiny" not in response.text.replace("/zoo/tiny", "")
        # A browser asks for a password: the token.
        assert http.get("/").headers["www-authenticate"].startswith("Basic")
        assert "tiny" in http.get("/", auth=("me", tokens.read)).text
        assert http.get("/", auth=("me", "wrong")).status_code == 401
        assert http.get("/health").text == "ok\n"


def test_a_revoked_token_is_refused_at_once(
    serve: Callable[..., Any], client: Callable[..., Any], store: Path, tokens: Any, zoo_here: Any
) -> None:
    server = serve(store, "--tokens", tokens.file)
    client(server.url, tokens.write).create_repo("zoo/one")
    assert "writer: revoked" in zoo_here("hub", "token", "revoke", "writer", tokens.file)
    with pytest.raises(HfHubHTTPError) as caught:
        client(server.url, tokens.write).create_repo("zoo/two")
    assert status_of(caught) == 401
    fresh = zoo_here("hub", "token", "add", "--write", "other", tokens.file).strip()
    client(server.url, fresh).create_repo("zoo/two")
    # A damaged file changes nothing until it is repaired.
    good = tokens.file.read_text()
    for damaged in ("{", "\0" * 100, good[:-80], good + "nonsense\n"):
        tokens.file.write_text(damaged)
        with pytest.raises(HfHubHTTPError) as caught:
            client(server.url, tokens.write).create_repo("zoo/three")
        assert status_of(caught) == 401
        assert client(server.url, fresh).whoami()["name"] == "other"
    tokens.file.unlink()
    assert client(server.url, fresh).whoami()["name"] == "other"
    assert "the secrets stay as they were" in server.log.read_text()


def test_the_token_command(zoo_here: Any, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    secret = zoo_here("hub", "token", "add", "--write", "ci", file).strip()
    assert secret.startswith("zoo_")
    made = json.loads(zoo_here("hub", "token", "add", "--read", "laptop", file, "--json"))
    assert made["role"] == "read"
    listed = json.loads(zoo_here("hub", "token", "list", file, "--json"))
    assert [(each["name"], each["role"]) for each in listed] == [
        ("ci", "write"),
        ("laptop", "read"),
    ]
    assert "already" in zoo_here("hub", "token", "add", "--read", "ci", file, status=1)
    assert "no secret" in zoo_here("hub", "token", "revoke", "nobody", file, status=1)
    assert "--read or --write" in zoo_here("hub", "token", "add", "x", file, status=2)
    assert "cannot name" in zoo_here("hub", "token", "add", "--read", "A B", file, status=1)
    zoo_here("hub", "token", "revoke", "ci", file)
    assert SecretFile(file).find(secret) is None
    assert SecretFile(file).find(made["token"]) is not None


def test_an_open_hub_only_serves_this_machine(
    serve: Callable[..., Any], client: Callable[..., Any], store: Path
) -> None:
    server = serve(store, "--open")
    assert "Anyone on this machine may read and write" in server.rules
    api = client(server.url, "hf_for_another_hub")
    api.create_repo("zoo/mine", private=True)
    assert [each.id for each in client(server.url).list_models()] == ["zoo/mine"]
    create = {"name": "theirs"}
    with server.http() as http:
        # Pages of other sites, even if their domain resolves to this machine.
        stranger = http.post("/api/repos/create", json=create, headers={"Origin": "http://x.org"})
        assert stranger.status_code == 403
        assert http.get("/", headers={"Host": "rebound.example.org"}).status_code == 403
    assert not api.repo_exists("zoo/theirs")


def test_by_default_nobody_may_write(
    serve: Callable[..., Any], client: Callable[..., Any], store: Path, tiny_package: Path
) -> None:
    Store(store).publish(Package.open(tiny_package))
    server = serve(store, "--org", "acme")
    assert "writing needs --tokens" in server.rules
    # A huggingface.co token in the environment does not prevent reading.
    api = client(server.url, "hf_for_another_hub")
    assert api.model_info("acme/tiny").sha
    with pytest.raises(HfHubHTTPError, match="--tokens or --open") as caught:
        api.create_repo("acme/new")
    assert status_of(caught) == 403
    with pytest.raises(RepositoryNotFoundError, match="only acme"):
        api.model_info("zoo/tiny")


def test_contradictory_options_are_refused(
    zoo_here: Any, store: Path, tokens: Any, tmp_path: Path
) -> None:
    def fails(*options: str | Path) -> str:
        message: str = zoo_here("hub", "serve", store, "--port", "0", *options, status=1)
        return message

    assert "cannot be used on 0.0.0.0" in fails("--open", "--host", "0.0.0.0")
    assert "cannot be combined" in fails("--open", "--tokens", tokens.file)
    assert "needs --tokens" in fails("--private")
    assert "No such file" in fails("--tokens", tmp_path / "nothing.json")
    assert "organisation" in fails("--org", "a/b")
    assert "no such folder" in zoo_here("hub", "serve", tmp_path / "nowhere", status=1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        message = zoo_here("hub", "serve", store, "--port", port, status=1)
        assert f"cannot listen on 127.0.0.1:{port}" in message


def test_basic_authentication_cannot_write(shared: Any) -> None:
    """A browser would send it by itself for any page."""
    secret = base64.b64encode(f"me:{shared.tokens.write}".encode()).decode()
    with shared.server.http() as http:
        response = http.post(
            "/api/repos/create",
            json={"name": "by-form"},
            headers={"Authorization": f"Basic {secret}", "Origin": shared.url},
        )
    assert response.status_code == 403
