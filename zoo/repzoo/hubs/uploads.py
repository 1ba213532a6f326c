"""Publish to a server of the Hub's API: every file of a package in one commit."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

from repzoo.errors import (
    AccessDenied,
    HubError,
    HubUnavailable,
    IntegrityError,
    ModelNotFound,
    Offline,
    RepzooError,
)
from repzoo.files import open_regular
from repzoo.hub import Hub, Published
from repzoo.hubs.environment import check_variables, client_without_proxies
from repzoo.hubs.transport import (
    HUGGINGFACE,
    INVALID_CREDENTIALS,
    is_offline,
    network_errors,
    printable,
)
from repzoo.packages.package import (
    ADVISORY,
    MANIFEST,
    SIGNATURE,
    Package,
    check_file_name,
)
from repzoo.progress import progress_bar

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

__all__ = ["RemoteFile", "RemoteHub", "upload"]

#: Attempts to commit, because others may commit after the repository was read.
_ATTEMPTS = 5


class RemoteFile(NamedTuple):
    """What a server says about one file. Small files may have only one of the two hashes."""

    size: int
    #: SHA-256 in hex, or None.
    sha256: str | None
    #: Git blob ID in hex: of the content, or of an LFS pointer if there is a SHA-256.
    git_id: str | None


class RemoteHub(Hub, Protocol):
    """A hub that is an organisation on a server of the Hub's API."""

    endpoint: str
    org: str

    def token(self) -> str | None:
        """Return the token that requests to this hub carry."""

    def token_hint(self) -> str:
        """Return how to set the token for this hub."""

    def files(self, name: str, commit: str) -> dict[str, RemoteFile]:
        """Return all files of a commit, by path."""


def upload(
    hub: RemoteHub, package: Package, *, message: str | None, tag: str | None, private: bool
) -> Published:
    """Publish a package as `repzoo.hub.WritableHub.publish` specifies."""
    if is_offline():
        raise Offline(f"{hub.spec}: not contacted, because this process is offline")
    check_variables()
    from huggingface_hub import HfApi

    package.verify()
    name = package.config.name
    api = HfApi(hub.endpoint, token=hub.token() or False, library_name="repzoo")
    repository = f"{hub.org}/{name}"
    with client_without_proxies(hub.endpoint), _as_repzoo_errors(hub, name):
        # Its own exist_ok hides what is wrong if the token may not create repositories.
        if not api.repo_exists(repository):
            api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise HubError(f"{name} in {hub.spec} exists and is public: make it private first")
        tags = hub.tags(name)
        files = _files(package)
        if tag in tags:
            _require_same(hub, package, files, tag, tags[tag])
        message = message or f"Publish {name}"
        commit, new = _commit(hub, api, repository, package, files, message)
        if tag is not None and tags.get(tag) != commit:
            api.create_tag(repository, tag=tag, revision=commit)
    return Published(name, package.revision, commit, new)


def _require_same(
    hub: RemoteHub, package: Package, files: Mapping[str, str], tag: str, commit: str
) -> None:
    """Refuse to publish if that would make a commit other than the one that has the tag."""
    name = package.config.name
    there = hub.files(name, commit)
    gone = (file for file in there if file not in files and _is_ours(file))
    different = sorted({*_different(package, files, there), *gone})
    if different:
        reason = f"where {', '.join(different[:3])} differ{'s' if len(different) == 1 else ''}"
    elif commit != hub.resolve(name):
        reason = "which is not the newest commit any more"
    else:
        return
    raise HubError(
        f"{name} in {hub.spec} already has the tag {tag} on {commit[:12]}, {reason}; tags do not "
        "move, so choose another tag"
    )


def _commit(
    hub: RemoteHub,
    api: HfApi,
    repository: str,
    package: Package,
    files: Mapping[str, str],
    message: str,
) -> tuple[str, bool]:
    """Commit the files that differ from the newest commit.

    Returns:
        The commit that holds the package, and whether it is a new one.
    """
    from huggingface_hub.errors import HfHubHTTPError

    name = package.config.name
    for attempt in range(1, _ATTEMPTS + 1):
        parent = hub.resolve(name)
        there = hub.files(name, parent)
        different = _different(package, files, there)
        deletions = [*_deletions(there, files)]
        if not different and not deletions:
            return parent, False
        with _additions(hub, package, different) as additions:
            try:
                done = api.create_commit(
                    repository,
                    [*additions, *deletions],
                    commit_message=message,
                    parent_commit=parent,
                )
            except HfHubHTTPError as error:
                # 412: somebody else committed first. Files that were uploaded are not sent again.
                if error.response.status_code != 412 or attempt == _ATTEMPTS:
                    raise
            else:
                return hub.resolve(name, done.oid), True
    raise AssertionError("the last attempt returns or raises")


def _files(package: Package) -> dict[str, str]:
    """Return the SHA-256 of every file to publish, by name."""
    files = {file: entry.sha256 for file, entry in package.manifest.files.items()}
    files[MANIFEST] = package.revision
    # The manifest does not determine the content of these.
    for file in (*ADVISORY, SIGNATURE):
        files.pop(file, None)
        if (package.path / file).exists():
            with open_regular(package.path / file) as stream:
                files[file] = hashlib.file_digest(stream, "sha256").hexdigest()
    return files


def _different(
    package: Package, files: Mapping[str, str], there: Mapping[str, RemoteFile]
) -> dict[str, str]:
    """Return the files that are missing from a commit or have other content there."""
    return {
        file: sha256
        for file, sha256 in files.items()
        if file not in there or not _is_same(package, file, sha256, there[file])
    }


def _is_same(package: Package, file: str, sha256: str, there: RemoteFile) -> bool:
    if there.sha256 is not None:
        return there.sha256 == sha256
    # A small file, which a server may keep in Git itself.
    with open_regular(package.path / file) as stream:
        content = stream.read(there.size + 1)
    blob = b"blob %d\0" % len(content) + content
    return hashlib.sha1(blob, usedforsecurity=False).hexdigest() == there.git_id


def _deletions(there: Iterable[str], files: Iterable[str]) -> Iterator[CommitOperationDelete]:
    """Delete files of the previous package that this one lacks; keep other files."""
    from huggingface_hub import CommitOperationDelete

    for file in set(there).difference(files):
        if _is_ours(file):
            yield CommitOperationDelete(file, is_folder=False)


def _is_ours(file: str) -> bool:
    try:
        check_file_name(file)
    except ValueError:
        return file == SIGNATURE
    return True


@contextmanager
def _additions(
    hub: RemoteHub, package: Package, files: Mapping[str, str]
) -> Iterator[list[CommitOperationAdd]]:
    """Give the files to the client for uploading, with a progress bar."""
    from huggingface_hub import CommitOperationAdd

    if hub.endpoint == HUGGINGFACE:
        # Through Xet, with the client's own progress bars.
        yield [CommitOperationAdd(file, package.path / file) for file in files]
        return
    with ExitStack() as stack:
        # The client always sends paths through Xet, which other servers do not support. It sends
        # open files through LFS, with a warning.
        stack.enter_context(_unlogged("huggingface_hub._commit_api", "binary IO buffer"))
        # A warning from `zoo hub serve` for clients that do use Xet.
        stack.enter_context(_unlogged("huggingface_hub.utils._http", "not through Xet"))
        additions, streams = [], []
        for file, sha256 in files.items():
            stream = stack.enter_context(_Watched(open_regular(package.path / file).detach()))
            addition = CommitOperationAdd(file, stream)
            if addition.upload_info.sha256.hex() != sha256:
                raise IntegrityError(f"{package.path / file} changed while it was read", (file,))
            additions.append(addition)
            streams.append(stream)
        total = sum(addition.upload_info.size for addition in additions)
        advance = stack.enter_context(progress_bar(package.config.name, total))
        for stream in streams:
            stream.advance = advance
        yield additions


class _Watched(io.BufferedReader):
    """A file that reports how much of it was read."""

    advance: Callable[[int], None] | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        if self.advance is not None:
            self.advance(len(piece))
        return piece


@contextmanager
def _unlogged(name: str, words: str) -> Iterator[None]:
    """Drop log records that contain these words."""
    logger = logging.getLogger(name)

    def keep(record: logging.LogRecord) -> bool:
        return words not in record.getMessage()

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


@contextmanager
def _as_repzoo_errors(hub: RemoteHub, name: str) -> Iterator[None]:
    """Turn the Hub client's errors into repzoo's errors."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    where = f"{name} in {hub.spec}"
    try:
        with network_errors(where):
            try:
                yield
            except RuntimeError as error:
                # An upload thread wraps the actual error in this one.
                if error.__cause__ is None or isinstance(error, RepzooError):
                    raise
                raise error.__cause__ from error
    except RepzooError:
        raise
    except RepositoryNotFoundError as error:
        raise ModelNotFound(f"{where}: {printable(str(error))}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        # The server's header and its body, one line each.
        lines = (error.server_message or str(error)).splitlines()
        message = "; ".join(line for line in lines if line != INVALID_CREDENTIALS)
        said = f"{where}: HTTP {status}: {printable(message)}"
        if status == 401 and hub.token() is None:
            raise AccessDenied(f"{where}: publishing needs {hub.token_hint()}") from error
        if status == 401:
            raise AccessDenied(f"{said}; publishing needs {hub.token_hint()}") from error
        if status == 403:
            raise AccessDenied(said) from error
        if status == 429 or status >= 500:
            raise HubUnavailable(said) from error
        raise HubError(said) from error
    except OfflineModeIsEnabled as error:
        raise Offline(f"{where}: HF_HUB_OFFLINE is set") from error
    except (ValueError, LookupError, TypeError) as error:
        raise HubError(
            f"{where}: the server's response cannot be understood: {printable(str(error))}"
        ) from error
