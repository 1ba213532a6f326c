"""A hub that is an organisation on huggingface.co or on another server with that API."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from io import BufferedIOBase
from typing import Any, TypeGuard
from urllib.parse import quote, urlsplit

from repzoo.errors import HubError, ModelNotFound
from repzoo.hub import Published
from repzoo.hubs.transport import HUGGINGFACE, FileMissing, Transport
from repzoo.hubs.uploads import RemoteFile, upload
from repzoo.packages.package import (
    ADVISORY,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    SIGNATURE,
    Manifest,
    Package,
    check_file_name,
)
from repzoo.packages.reference import is_digest, is_name, match_revision, no_such_package

__all__ = ["HuggingFaceHub"]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGITS = re.compile(r"[0-9a-f]{7,64}")
_ORG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

_MAX_ANSWER_BYTES = 2**25
#: Maximum number of pages to read: of 50 commits, or of 1000 packages or files.
_MAX_PAGES = 40
#: The number of newest commits that are searched for a manifest's SHA-256.
_RECENT = 50


class HuggingFaceHub:
    """The model packages of one organisation or user.

    A package is a model repository with a manifest; the repository may hold other files, too. Its
    commits are Git's. The methods implement `repzoo.hub.WritableHub`.
    """

    def __init__(self, endpoint: str, org: str) -> None:
        """Open the hub of ``org`` on the server ``endpoint``, without a request."""
        self.endpoint = endpoint
        self.org = org
        self._transport = Transport(endpoint)
        # Manifests by name and commit, because the content of a commit does not change.
        self._manifests: dict[tuple[str, str], bytes] = {}

    @classmethod
    def parse(cls, spec: str) -> HuggingFaceHub:
        """Open ``hf://ORG``, on the endpoint that ``HF_ENDPOINT`` names, or ``https://HOST/ORG``.

        Raises:
            HubError: If it is neither.
        """
        endpoint, _, org = spec.rstrip("/").rpartition("/")
        if endpoint == "hf:/":
            endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or HUGGINGFACE
        if _ORG.fullmatch(org) is None or not _is_endpoint(endpoint):
            raise HubError(
                f"{spec} is not a hub: expected a folder, hf://ORG or http[s]://HOST[:PORT]/ORG; "
                "hf://ORG/NAME is a package"
            )
        return cls(endpoint, org)

    @property
    def spec(self) -> str:
        """``hf://ORG`` on huggingface.co, and ``https://HOST/ORG`` elsewhere."""
        return f"hf://{self.org}" if self.endpoint == HUGGINGFACE else f"{self.endpoint}/{self.org}"

    def names(self) -> list[str]:
        names = set()
        query = {"author": self.org, "full": "true", "limit": "1000"}
        for model in self._pages("/api/models", query):
            match model:
                case {"id": str(full_name)}:
                    org, _, name = full_name.partition("/")
                    if org.lower() == self.org.lower() and is_name(name) and _is_package(model):
                        names.add(name)
                case _:
                    raise self._nonsense("a list of models")
        return sorted(names)

    def revisions(self, name: str) -> list[str]:
        commits = [*self._commits(name)]
        # The oldest commits may precede the package: a repository begins with an empty commit.
        while commits and not self._holds_package(name, commits[-1]):
            commits.pop()
        return commits

    def resolve(self, name: str, revision: str | None = None) -> str:
        if revision in (None, "main"):
            return self._commit_of(name, "main")
        where = f"{name} in {self.spec}"
        if _is_commit(revision):
            commit = self._commit_of(name, revision)
            if commit != revision:
                raise HubError(f"{where}: requested commit {revision}, got {commit}")
            return commit
        tags = self.tags(name)
        if revision in tags:
            return tags[revision]
        if _DIGITS.fullmatch(revision) is None:
            raise ModelNotFound(f"{where} has no tag {revision!r}; it has {_listing(tags)}")

        newest = self._commit_of(name, "main")
        known = {newest: None, **dict.fromkeys(tags.values()), **dict.fromkeys(self._commits(name))}
        if not is_digest(revision) and any(each.startswith(revision) for each in known):
            return match_revision(revision, known, where)
        # main first, then tags, then the newest of the other commits.
        broken: list[str] = []
        for commit in [*known][: len(tags) + _RECENT]:
            if self._holds_package(name, commit):
                digest = hashlib.sha256(self.manifest(name, commit)).hexdigest()
                if digest.startswith(revision):
                    if self._is_whole(name, commit):
                        return commit
                    broken.append(commit[:12])
        if broken:
            raise ModelNotFound(
                f"{where}: files of {revision[:12]} were deleted or changed in "
                f"{', '.join(broken)}; publish the package again"
            )
        raise ModelNotFound(f"{where} has no revision {revision!r}")

    def manifest(self, name: str, commit: str) -> bytes:
        key = (name, commit)
        if key not in self._manifests:
            path = self._path(name, commit, MANIFEST)
            try:
                answer = self._transport.get(path, MAX_MANIFEST_BYTES)
            except FileMissing:
                raise ModelNotFound(
                    f"{name} in {self.spec} has no {MANIFEST}, so it is not a model package"
                ) from None
            self._manifests[key] = answer.content
        return self._manifests[key]

    def open(
        self, name: str, commit: str, file: str, start: int = 0
    ) -> AbstractContextManager[BufferedIOBase]:
        return self._transport.stream(self._path(name, commit, check_file_name(file)), start)

    def signature(self, name: str, commit: str) -> bytes | None:
        path = self._path(name, commit, SIGNATURE)
        try:
            return self._transport.get(path, MAX_MANIFEST_BYTES).content
        except FileMissing:
            return None

    def tags(self, name: str) -> dict[str, str]:
        tags = {}
        match self._json(f"{self._repository(name)}/refs"):
            case {"tags": list(refs)}:
                for ref in refs:
                    match ref:
                        case {"name": str(tag), "targetCommit": str(commit)} if _is_commit(commit):
                            # Git allows more names than a reference can contain.
                            if _TAG.fullmatch(tag) is not None:
                                tags[tag] = commit
                        case _:
                            raise self._nonsense(f"the tags of {name}")
            case _:
                raise self._nonsense(f"the tags of {name}")
        return tags

    def publish(
        self,
        package: Package,
        *,
        message: str | None = None,
        tag: str | None = None,
        private: bool = False,
    ) -> Published:
        return upload(self, package, message=message, tag=tag, private=private)

    def files(self, name: str, commit: str) -> dict[str, RemoteFile]:
        """Return all files of a commit, by path."""
        files = {}
        for entry in self._pages(f"{self._repository(name)}/tree/{commit}", {"recursive": "true"}):
            match entry:
                case {"type": "file", "path": str(path), "size": int(size)}:
                    lfs, git_id = entry.get("lfs"), entry.get("oid")
                    sha256 = lfs.get("oid") if isinstance(lfs, dict) else None
                    files[path] = RemoteFile(size, sha256, git_id)
                case {"type": "directory"}:
                    pass
                case _:
                    raise self._nonsense(f"the files of {name}")
        return files

    def token(self) -> str | None:
        """Return the token that requests to this hub carry."""
        return self._transport.token()

    def token_hint(self) -> str:
        """Return how to set the token for this hub."""
        return self._transport.token_hint()

    def _commit_of(self, name: str, revision: str) -> str:
        try:
            answer = self._json(f"{self._repository(name)}/revision/{quote(revision, safe='')}")
        except ModelNotFound as error:
            # A list of names makes a better message than a URL.
            raise self._not_found(name, error) from error
        match answer:
            case {"sha": str(commit)} if _is_commit(commit):
                return commit
            case _:
                raise self._nonsense(f"the commit of {name}")

    def _commits(self, name: str) -> Iterator[str]:
        for entry in self._pages(f"{self._repository(name)}/commits/main"):
            match entry:
                case {"id": str(commit)} if _is_commit(commit):
                    yield commit
                case _:
                    raise self._nonsense(f"the commits of {name}")

    def _holds_package(self, name: str, commit: str) -> bool:
        try:
            self.manifest(name, commit)
        except ModelNotFound:
            return False
        return True

    def _is_whole(self, name: str, commit: str) -> bool:
        """Whether a commit has the files of its manifest, judging by its list of files."""
        manifest = Manifest.parse(self.manifest(name, commit), f"{name} in {self.spec}")
        try:
            there = self.files(name, commit)
        except ModelNotFound:
            return True  # a server that does not list files
        return all(
            file in ADVISORY
            or (
                file in there
                and there[file].size == entry.size
                and there[file].sha256 in (None, entry.sha256)
            )
            for file, entry in manifest.files.items()
        )

    def _pages(self, path: str, params: Mapping[str, str] | None = None) -> Iterator[Any]:
        for _ in range(_MAX_PAGES):
            answer = self._transport.get(path, _MAX_ANSWER_BYTES, params)
            with self._understanding(path):
                entries = answer.json()
            if not isinstance(entries, list):
                raise self._nonsense(path)
            yield from entries
            if answer.next is None or not entries:
                return
            path, params = answer.next, None

    def _json(self, path: str) -> Any:
        answer = self._transport.get(path, _MAX_ANSWER_BYTES)
        with self._understanding(path):
            return answer.json()

    @contextmanager
    def _understanding(self, what: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, RecursionError):
            raise self._nonsense(what) from None

    def _nonsense(self, what: str) -> HubError:
        return HubError(f"{self.endpoint}: the response for {what} cannot be understood")

    def _not_found(self, name: str, error: ModelNotFound) -> ModelNotFound:
        try:
            known = self.names()
        except (HubError, ModelNotFound):
            return error
        if name in known or not known:
            return error
        return ModelNotFound(f"{no_such_package(self.spec, name, known)}; {error}")

    def _repository(self, name: str) -> str:
        return f"/api/models/{self.org}/{self._named(name)}"

    def _path(self, name: str, commit: str, file: str) -> str:
        if not _is_commit(commit):
            raise ModelNotFound(f"{name} in {self.spec} has no commit {commit!r}")
        return f"/{self.org}/{self._named(name)}/resolve/{commit}/{quote(file)}"

    def _named(self, name: str) -> str:
        if not is_name(name):
            raise ModelNotFound(f"{self.spec} has no package {name!r}, which is not a valid name")
        return name


def _is_endpoint(text: str) -> bool:
    # No user name, password, path or query, because specs are shown, stored and logged.
    host = r"https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
    try:
        return re.fullmatch(host, text) is not None and (urlsplit(text).port or 0) >= 0
    except ValueError:
        return False


def _is_package(facts: Mapping[str, Any]) -> bool:
    """Whether a model in a list is a package, judged by its files or by the library's tag."""
    match facts:
        case {"siblings": [_, *_] as siblings}:
            files = {each.get("rfilename") for each in siblings if isinstance(each, dict)}
            return {MANIFEST, "config.json", "encoder.onnx"} <= files
        case {"library_name": "repzoo"}:
            return True
        case {"tags": list(tags)}:
            return "repzoo" in tags
    return False


def _is_commit(text: object) -> TypeGuard[str]:
    return isinstance(text, str) and _COMMIT.fullmatch(text) is not None


def _listing(tags: Mapping[str, str]) -> str:
    return f"the tags {', '.join(sorted(tags)[:20])}" if tags else "no tags"
