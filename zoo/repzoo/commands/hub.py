"""`zoo hub`: create, check and serve hubs."""

from __future__ import annotations

from pathlib import Path

import click

from repzoo.errors import IntegrityError
from repzoo.progress import progress_bar
from repzoo.report import Report, format_bytes, format_table, reporting
from repzoo.secrets_file import Role, add_secret, read_secrets, revoke_secret

__all__ = ["hub"]

_folder = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
_token_file = click.argument("file", metavar="FILE", type=click.Path(path_type=Path))


@click.group()
def hub() -> None:
    """Create, check and serve hubs."""


@hub.command("init")
@_folder
@reporting
def hub_init(folder: Path) -> Report:
    """Create a store in a new or empty folder."""
    from repzoo.store.store import Store

    store = Store.create(folder)
    return Report(
        {"hub": store.spec},
        f"{store.spec} is a store; publish to it with: zoo publish DIR --hub {folder}",
    )


@hub.command("fsck")
@_folder
@click.option("--prune", is_flag=True, help="Remove leftovers and unreferenced files.")
@click.option(
    "--grace",
    metavar="HOURS",
    type=click.FloatRange(min=0),
    default=24,
    show_default=True,
    help="Keep unreferenced files that are newer: a running upload may need them.",
)
@reporting
def hub_fsck(folder: Path, prune: bool, grace: float) -> Report:
    """Check every file of a store.

    The store stays available for reading and publishing. The exit status is 1 if there are faults.
    """
    from repzoo.store.fsck import check
    from repzoo.store.store import Store

    store = Store(folder)
    with progress_bar("check", store.blobs.total()) as advance:
        findings = check(store, prune=prune, grace=grace * 3600, progress=advance)
    if findings.faults:
        for fault in findings.faults:
            click.echo(fault, err=True)
        number = len(findings.faults)
        count = "1 fault" if number == 1 else f"{number} faults"
        raise IntegrityError(f"{store.spec} has {count}", tuple(findings.faults))

    blobs = f"{findings.blobs} files, {format_bytes(findings.size)}"
    lines = [
        f"{store.spec}: {findings.repositories} repositories, {findings.commits} commits,"
        f" {blobs}: no faults"
    ]
    for kind, places in (("unreferenced", findings.dangling), ("leftover", findings.leftovers)):
        lines += [
            f"{kind}: {place}{' (removed)' if place in findings.removed else ''}"
            for place in places
        ]
    return Report({"hub": store.spec, **vars(findings)}, "\n".join(lines))


@hub.command("serve")
@_folder
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="0 picks a free port.",
)
@click.option("--org", default="zoo", show_default=True, help="Organisation of all repositories.")
@click.option(
    "--tokens",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="File of tokens, see zoo hub token. Without it, writing is not possible.",
)
@click.option(
    "--public/--private",
    default=True,
    help="Allow reading without a token, or not.  [default: public]",
)
@click.option(
    "--open", "open_", is_flag=True, help="Let anyone on this machine write without a token."
)
def hub_serve(
    folder: Path, host: str, port: int, org: str, tokens: Path | None, public: bool, open_: bool
) -> None:
    """Serve a store, or a folder of packages, as a Hugging Face Hub.

    Use it with HF_ENDPOINT=http://HOST:PORT in huggingface_hub and hf, or with
    --hub http://HOST:PORT/ORG in zoo. Stop it with Ctrl-C.
    """
    from repzoo.hub_server.serve import serve

    serve(folder, host=host, port=port, org=org, tokens=tokens, public=public, open_=open_)


@hub.group()
def token() -> None:
    """Manage tokens for reading and writing on a served hub."""


@token.command("add")
@click.option("--read", "role", flag_value="read", help="Allow reading, including private models.")
@click.option("--write", "role", flag_value="write", help="Allow reading and writing.")
@click.argument("name", metavar="NAME")
@_token_file
@reporting
def token_add(role: Role | None, name: str, file: Path) -> Report:
    """Create a token and print it once.

    FILE stores only the token's SHA-256. Running servers accept the token at once.
    """
    if role is None:
        raise click.UsageError("Missing option: --read or --write.")
    secret = add_secret(file, name, prefix="zoo_", role=role)
    return Report({"name": name, "role": role, "token": secret}, secret)


@token.command("list")
@_token_file
@reporting
def token_list(file: Path) -> Report:
    """List the tokens in a file."""
    tokens = read_secrets(file)
    data = [
        {
            "name": each.name,
            "role": each.role or "read",
            "created": each.created and each.created.isoformat(),
        }
        for each in tokens
    ]
    if not tokens:
        return Report(data, f"{file} has no tokens.")
    rows = [
        (each.name, each.role or "read", f"{each.created:%Y-%m-%d %H:%M}" if each.created else "")
        for each in tokens
    ]
    return Report(data, format_table(rows, ("NAME", "ROLE", "CREATED")))


@token.command("revoke")
@click.argument("name", metavar="NAME")
@_token_file
@reporting
def token_revoke(name: str, file: Path) -> Report:
    """Remove a token from a file. Running servers refuse it at once."""
    revoke_secret(file, name)
    return Report({"name": name, "revoked": True}, f"{name}: revoked")
