"""`zoo publish`: a package to a hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from repzoo.checks.content import check_content
from repzoo.errors import HubError, InvalidInput, ModelNotFound
from repzoo.hub import Hub, WritableHub
from repzoo.hubs.opening import open_hub
from repzoo.packages.names import names
from repzoo.packages.package import SIGNATURE, Package
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
@click.option("--message", "-m", metavar="TEXT", help="What the hub's history is to say of it.")
@click.option("--tag", metavar="TAG", help="A name for this revision, such as v1.")
@click.option("--private", is_flag=True, help="A new repository is not for everyone.")
@click.option(
    "--sign",
    "key",
    metavar="KEY",
    type=click.Path(path_type=Path),
    help="Sign it with this private key (PEM, elliptic curve); $REPZOO_KEY_PASSWORD opens it.",
)
@click.option("--files-only", is_flag=True, help="Check the files, do not run the model first.")
@click.option("--dry-run", is_flag=True, help="Check all this and say what would be published.")
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

    It becomes the newest revision of its name; older ones stay. It appears there whole or not at
    all. A signature beside the manifest goes along.
    """
    package = Package.open(folder)
    hub = open_hub(hub_spec)
    if not isinstance(hub, WritableHub):
        raise HubError(f"{hub_spec} is read-only; zoo hub init makes a store to publish to")
    package.verify()
    check_content(package)
    name = package.config.name
    if name in names().aliases:
        raise InvalidInput(
            f"{name!r} stands for {names().aliases[name]} in the catalogue of repzoo: nobody could "
            "pull a package of that name"
        )
    if not files_only:
        # It runs the model against its golden vectors, where this was not done before.
        from repzoo.admission.first_load import admit

        admit(package)
    if dry_run:
        return _plan(package, hub, tag, key)
    if key is not None:
        sign_package(package, key, _password(key))
    require_signature_of(package)
    published = hub.publish(package, message=message, tag=tag, private=private)
    data = {**published._asdict(), "hub": hub.spec, "tag": tag, "signed": _is_signed(package)}
    done = "published" if published.new else "was there already"
    text = f"{name} {published.revision[:12]}: {done} in {hub.spec}"
    if published.commit != published.revision:
        text += f" as {published.commit[:12]}"
    if tag is not None:
        text += f", tag {tag}"
    if data["signed"]:
        text += ", signed"
    return Report(data, f"{text}\nzoo pull {name}@sha256:{published.revision} --hub {hub_spec}")


def _plan(package: Package, hub: Hub, tag: str | None, key: Path | None) -> Report:
    """What would be published, and what is there already."""
    name = package.config.name
    try:
        newest: str | None = hub.resolve(name)
        there: str | None = hub.resolve(name, package.revision)
        tags = hub.tags(name)
    except ModelNotFound:
        newest = _newest(hub, name)
        there = None
        tags = hub.tags(name) if newest is not None else {}
    if tag in tags and tags[tag] != there:
        raise HubError(f"{hub.spec} has the tag {tag} of {name} on another revision")
    files = {file: entry.size for file, entry in package.manifest.files.items()}
    data: dict[str, Any] = {
        "name": name,
        "revision": package.revision,
        "hub": hub.spec,
        "new": there is None or there != newest,
        "files": files,
        "size": package.size,
        "tag": tag,
        "signed": key is not None or _is_signed(package),
    }
    state = "would be published" if data["new"] else "is there already"
    lines = [f"{name} {package.revision[:12]}, {format_bytes(package.size)}: {state} in {hub.spec}"]
    lines += [f"  {file}  {format_bytes(size)}" for file, size in files.items()]
    if data["signed"]:
        lines.append(f"  {SIGNATURE}")
    return Report(data, "\n".join(lines))


def _newest(hub: Hub, name: str) -> str | None:
    try:
        return hub.resolve(name)
    except ModelNotFound:
        return None


def _is_signed(package: Package) -> bool:
    return (package.path / SIGNATURE).is_file()


def _password(key: Path) -> str | None:
    if not is_encrypted(key):
        return None
    given = os.environ.get("REPZOO_KEY_PASSWORD")
    if given is None:
        given = click.prompt(f"Password of {key}", hide_input=True, err=True)
    return given
