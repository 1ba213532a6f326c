"""The command ``zoo keys``: API keys of ``zoo serve``."""

from __future__ import annotations

from pathlib import Path

import click

from repzoo.report import Report, format_table, reporting
from repzoo.secrets_file import add_secret, read_secrets, revoke_secret

__all__ = ["keys"]

_file = click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
_positive = click.FloatRange(0, min_open=True)


@click.group()
def keys() -> None:
    """Manage the API keys of a server.

    FILE, which zoo serve --keys reads, stores only the SHA-256 of each key. Running servers follow
    its changes.
    """


@keys.command("add")
@click.option("--rate", type=_positive, metavar="N", help="Requests per second with this key.")
@click.option(
    "--burst",
    type=_positive,
    metavar="N",
    help="Requests with this key that may arrive at once.  [default: those of one second]",
)
@click.argument("name", metavar="NAME")
@_file
@reporting
def keys_add(rate: float | None, burst: float | None, name: str, file: Path) -> Report:
    """Create a key and print it once.

    NAME says whose it is, in logs and metrics. FILE is created if it does not exist.
    """
    key = add_secret(file, name, prefix="rz_", rate=rate, burst=burst)
    return Report({"name": name, "rate": rate, "burst": burst, "key": key}, key)


@keys.command("list")
@_file
@reporting
def keys_list(file: Path) -> Report:
    """List the keys in a file, by name."""
    found = read_secrets(file)
    data = [
        {
            "name": each.name,
            "rate": each.rate,
            "burst": each.burst,
            "created": each.created and each.created.isoformat(),
        }
        for each in found
    ]
    if not found:
        return Report(data, f"{file} has no keys.")
    rows = [
        (
            each.name,
            f"{each.rate:g}" if each.rate is not None else "-",
            f"{each.burst:g}" if each.burst is not None else "-",
            f"{each.created:%Y-%m-%d %H:%M}" if each.created else "",
        )
        for each in found
    ]
    return Report(data, format_table(rows, ("NAME", "RATE", "BURST", "CREATED")))


@keys.command("revoke")
@click.argument("name", metavar="NAME")
@_file
@reporting
def keys_revoke(name: str, file: Path) -> Report:
    """Remove a key from a file. Running servers refuse it within a second."""
    revoke_secret(file, name)
    return Report({"name": name, "revoked": True}, f"{name}: revoked")
