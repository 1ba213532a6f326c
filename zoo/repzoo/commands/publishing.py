"""`zoo publish`: publish a package to a hub."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from repzoo.checks.content import check_content
from repzoo.errors import EntryNotFound, HubError, InvalidInput, ModelNotFound
from repzoo.files import write_atomically
from repzoo.hub import Hub, WritableHub
from repzoo.hubs.opening import open_hub
from repzoo.hubs.transport import FileMissing
from repzoo.packages.copies import copy_out
from repzoo.packages.names import names
from repzoo.packages.package import ADVISORY, MAX_ADVISORY_BYTES, SIGNATURE, Package
from repzoo.packages.signatures import is_encrypted, require_signature_of, sign_package
from repzoo.report import Report, format_bytes, reporting

__all__ = ["publish"]


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--hub",
    "hub_spec",
    metavar="HUB",
    required=True,
    help="A store, hf://ORG or https://HOST/ORG.",
)
@click.option("--message", "-m", metavar="TEXT", help="Commit message.")
@click.option("--tag", metavar="TAG", help="Name for this revision, such as v1.")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option(
    "--sign",
    "key",
    metavar="KEY",
    type=click.Path(path_type=Path),
    help="Sign with this private key (PEM, elliptic curve). $REPZOO_KEY_PASSWORD is its password.",
)
@click.option("--files-only", is_flag=True, help="Check the files only; do not run the model.")
@click.option("--dry-run", is_flag=True, help="Check everything and show what would be published.")
@reporting
def publish(
    folder: Path,
    hub_spec: str,
    message: str | None,
    tag: str | None,
    private: bool,
    key: Path | None,
    files_only: bool,
    dry_run: bool,
) -> Report:
    """Publish a package to a hub.

    The package becomes the newest revision of its name; older revisions stay. It is published
    completely or not at all. A signature in its folder is published too. DIR is never changed:
    --sign signs only the published copy.
    """
    package = Package.open(folder)
    hub = open_hub(hub_spec)
    if not isinstance(hub, WritableHub):
        raise HubError(f"{hub_spec} is read-only; create a store to publish to with zoo hub init")
    package.verify()
    check_content(package)
    name = package.config.name
    if name in names().aliases:
        raise InvalidInput(
            f"{name!r} is an alias of {names().aliases[name]} in repzoo, so nobody could pull a "
            "package of this name: rename it in config.json"
        )
    if not files_only:
        # Run the golden vectors, unless this was done before.
        from repzoo.admission.first_load import admit

        admit(package)
    signature = None if key is None else sign_package(package, key, _password(key))
    if signature is None:
        require_signature_of(package)
    signed = signature is not None or (package.path / SIGNATURE).is_file()
    if dry_run:
        return _plan(package, hub, tag, signature)
    with ExitStack() as stack:
        if signature is not None:
            scratch = stack.enter_context(TemporaryDirectory(prefix="zoo-publish-"))
            package = copy_out(package, Path(scratch))
            write_atomically(package.path / SIGNATURE, signature)
        published = hub.publish(package, message=message, tag=tag, private=private)
    data = {**published._asdict(), "hub": hub.spec, "tag": tag, "signed": signed}
    done = "published to" if published.new else "is already the newest revision in"
    text = f"{name} {published.revision[:12]}: {done} {hub.spec}"
    if published.commit != published.revision:
        text += f" as {published.commit[:12]}"
    if tag is not None:
        text += f", tag {tag}"
    if signed:
        text += ", signed"
    return Report(data, f"{text}\nzoo pull {name}@sha256:{published.revision} --hub {hub_spec}")


def _plan(package: Package, hub: Hub, tag: str | None, signature: bytes | None) -> Report:
    """Show what would be published."""
    name = package.config.name
    words = _words(package)
    if signature is not None:
        words[SIGNATURE] = signature
    signed = words[SIGNATURE] is not None
    newest, existing = (_commit(hub, name, revision) for revision in (None, package.revision))
    tags = hub.tags(name) if newest is not None else {}
    new = newest is None or existing != newest or _words_in(hub, name, newest) != words
    if tag in tags and (new or tags[tag] != newest):
        raise HubError(f"{hub.spec} has the tag {tag} of {name} on another revision")
    files = {file: entry.size for file, entry in package.manifest.files.items()}
    data: dict[str, Any] = {
        "name": name,
        "revision": package.revision,
        "hub": hub.spec,
        "new": new,
        "files": files,
        "size": package.size,
        "tag": tag,
        "signed": signed,
    }
    state = "would be published to" if data["new"] else "is already the newest revision in"
    lines = [f"{name} {package.revision[:12]}, {format_bytes(package.size)}: {state} {hub.spec}"]
    lines += [f"  {file}  {format_bytes(size)}" for file, size in files.items()]
    if signed:
        lines.append(f"  {SIGNATURE}")
    needs = _missing_token(hub)
    if needs is not None:
        lines.append(
            f"no token is set: unless the hub is open to everyone, publishing needs {needs}"
        )
    return Report({**data, "token_is_missing": needs is not None}, "\n".join(lines))


def _words(package: Package) -> dict[str, bytes | None]:
    """Return the files that the manifest does not determine; None if one does not exist."""
    paths = {file: package.path / file for file in (*ADVISORY, SIGNATURE)}
    return {file: path.read_bytes() if path.exists() else None for file, path in paths.items()}


def _words_in(hub: Hub, name: str, commit: str) -> dict[str, bytes | None]:
    """Return the same files of a commit."""
    words = {SIGNATURE: hub.signature(name, commit)}
    for file in ADVISORY:
        try:
            with hub.open(name, commit, file) as stream:
                words[file] = stream.read(MAX_ADVISORY_BYTES + 1)
        except (EntryNotFound, FileMissing):
            words[file] = None
    return words


def _missing_token(hub: Hub) -> str | None:
    """Return how to set the token of a hub, or None if it is set or the hub takes no token."""
    from repzoo.hubs.huggingface import HuggingFaceHub

    if not isinstance(hub, HuggingFaceHub) or hub.token() is not None:
        return None
    return hub.token_hint()


def _commit(hub: Hub, name: str, revision: str | None) -> str | None:
    try:
        return hub.resolve(name, revision)
    except ModelNotFound:
        return None


def _password(key: Path) -> str | None:
    if not is_encrypted(key):
        return None
    password = os.environ.get("REPZOO_KEY_PASSWORD")
    return password or click.prompt(f"Password of {key}", hide_input=True, err=True)
