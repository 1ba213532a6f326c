"""Publishing to a server of the Hub's API: every file of a package in one commit."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

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
from repzoo.hubs.transport import HUGGINGFACE, FileMissing, is_offline, network_errors, printable
from repzoo.packages.package import (
    ADVISORY,
    MANIFEST,
    MAX_ADVISORY_BYTES,
    SIGNATURE,
    Package,
    check_file_name,
)
from repzoo.progress import progress_bar

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

__all__ = ["RemoteHub", "upload"]

#: So often somebody else may commit between our look at the repository and our commit.
_ATTEMPTS = 5

_CARD = "README.md"


class RemoteHub(Hub, Protocol):
    """A hub that is an organisation on a server of the Hub's API."""

    endpoint: str
    org: str

    def token(self) -> str | None:
        """The token that the server is asked with, or None."""


def upload(
    hub: RemoteHub, package: Package, *, message: str | None, tag: str | None, private: bool
) -> Published:
    """Do what `repzoo.hub.WritableHub.publish` says."""
    from huggingface_hub import HfApi

    if is_offline():
        raise Offline(f"{hub.spec} is not asked: this process is offline")
    package.verify()
    name = package.config.name
    api = HfApi(hub.endpoint, token=hub.token() or False, library_name="repzoo")
    repository = f"{hub.org}/{name}"
    with _as_ours(hub, name):
        api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise HubError(f"{name} is in {hub.spec} already, and public: make it private first")
        tags = hub.tags(name)
        if tag in tags and not _holds(hub, package, tags[tag]):
            raise HubError(f"{name} in {hub.spec} has the tag {tag} already, and tags do not move")
        commit, new = _commit(hub, api, repository, package, message or f"Publish {name}")
        if tag is not None and tag not in tags:
            api.create_tag(repository, tag=tag, revision=commit)
    return Published(name, package.revision, commit, new)


def _commit(
    hub: RemoteHub, api: HfApi, repository: str, package: Package, message: str
) -> tuple[str, bool]:
    """Commit a package, unless it is the newest already; gives the commit and whether it is new."""
    from huggingface_hub.errors import HfHubHTTPError

    name = package.config.name
    files = _files(package)
    for attempt in range(1, _ATTEMPTS + 1):
        parent = hub.resolve(name)
        if _holds(hub, package, parent) and _card(hub, name, parent) == files.get(_CARD):
            return parent, False
        there = api.list_repo_files(repository, revision=parent)
        with _additions(hub, package, files) as additions:
            try:
                done = api.create_commit(
                    repository,
                    [*additions, *_deletions(there, files)],
                    commit_message=message,
                    parent_commit=parent,
                )
            except HfHubHTTPError as error:
                # 412: somebody else was faster. What was uploaded already is not sent again.
                if error.response.status_code != 412 or attempt == _ATTEMPTS:
                    raise
            else:
                return hub.resolve(name, done.oid), True
    raise AssertionError("the last attempt returns or raises")


def _files(package: Package) -> dict[str, str]:
    """The sha256 of every file to upload: those of the manifest, and it, and what stands beside."""
    files = {file: entry.sha256 for file, entry in package.manifest.files.items()}
    files[MANIFEST] = package.revision
    # These are taken as they are.
    for file in (*ADVISORY, SIGNATURE):
        files.pop(file, None)
        if (package.path / file).exists():
            with open_regular(package.path / file) as stream:
                files[file] = hashlib.file_digest(stream, "sha256").hexdigest()
    return files


def _holds(hub: RemoteHub, package: Package, commit: str) -> bool:
    """Whether a commit has the package's very manifest and signature."""
    name = package.config.name
    signature = package.path / SIGNATURE
    try:
        same = hub.manifest(name, commit) == (package.path / MANIFEST).read_bytes()
    except ModelNotFound:
        return False  # a new repository, or one that was something else until now
    return same and hub.signature(name, commit) == (
        signature.read_bytes() if signature.is_file() else None
    )


def _card(hub: RemoteHub, name: str, commit: str) -> str | None:
    """The sha256 of the card that a commit has."""
    try:
        with hub.open(name, commit, _CARD) as stream:
            return hashlib.sha256(stream.read(MAX_ADVISORY_BYTES + 1)).hexdigest()
    except FileMissing:
        return None


def _deletions(there: Iterable[str], files: Iterable[str]) -> Iterator[CommitOperationDelete]:
    """Files of the package before that this one lacks; what is no package's file stays."""
    from huggingface_hub import CommitOperationDelete

    for file in set(there).difference(files):
        if file == SIGNATURE or _is_of_a_package(file):
            yield CommitOperationDelete(file, is_folder=False)


def _is_of_a_package(file: str) -> bool:
    try:
        check_file_name(file)
    except ValueError:
        return False
    return True


@contextmanager
def _additions(
    hub: RemoteHub, package: Package, files: dict[str, str]
) -> Iterator[list[CommitOperationAdd]]:
    """Give the files as the client uploads them, with a progress bar for as long as it does."""
    from huggingface_hub import CommitOperationAdd

    if hub.endpoint == HUGGINGFACE:
        # Through Xet, with the client's own progress bars.
        yield [CommitOperationAdd(file, package.path / file) for file in files]
        return
    with ExitStack() as stack:
        # The client sends paths through Xet without asking, which other servers do not speak, but
        # open files through LFS, with a warning.
        stack.enter_context(_unlogged("huggingface_hub._commit_api", "binary IO buffer"))
        # What a server of ours tells those who do not know that.
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
    """A file that says how much of it was read."""

    advance: Callable[[int], None] | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        if self.advance is not None:
            self.advance(len(piece))
        return piece


@contextmanager
def _unlogged(name: str, words: str) -> Iterator[None]:
    """Keep what has these words in it out of a log."""
    logger = logging.getLogger(name)

    def keep(record: logging.LogRecord) -> bool:
        return words not in record.getMessage()

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


@contextmanager
def _as_ours(hub: RemoteHub, name: str) -> Iterator[None]:
    """Raise the client's errors as ours."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    where = f"{name} in {hub.spec}"
    try:
        with network_errors(where):
            try:
                yield
            except RuntimeError as error:
                # What a thread that uploads a file says instead of what went wrong.
                if error.__cause__ is None or isinstance(error, RepzooError):
                    raise
                raise error.__cause__ from error
    except RepzooError:
        raise
    except RepositoryNotFoundError as error:
        raise ModelNotFound(f"{where}: {printable(str(error))}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        # The server's header and its body, a line each.
        message = "; ".join((error.server_message or str(error)).splitlines())
        said = f"{where}: HTTP {status}: {printable(message)}"
        if status in (401, 403):
            raise AccessDenied(
                f"{said}; set HF_TOKEN or REPZOO_HUB_TOKEN to a token that may write"
            ) from error
        if status == 429 or status >= 500:
            raise HubUnavailable(said) from error
        raise HubError(said) from error
    except OfflineModeIsEnabled as error:
        raise Offline(f"{where}: HF_HUB_OFFLINE is set") from error
    except (ValueError, LookupError, TypeError) as error:
        raise HubError(f"{where}: the server answers nonsense: {printable(str(error))}") from error
