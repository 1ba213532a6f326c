"""`zoo verify`: check the files and outputs of a package."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from repzoo.admission.first_load import admit
from repzoo.checks.content import check_content
from repzoo.commands.arguments import local_package, name_or_path_argument
from repzoo.errors import IntegrityError
from repzoo.packages.reference import is_path
from repzoo.packages.signatures import verify_signature
from repzoo.report import Report, format_table, reporting

__all__ = ["verify"]


@click.command()
@name_or_path_argument
@click.option("--files-only", is_flag=True, help="Check the files only; do not run the model.")
@click.option(
    "--provider",
    type=click.Choice(["cpu", "cuda"]),
    help="Where to run the model.  [default: cuda if it works, otherwise cpu]",
)
@click.option(
    "--key",
    metavar="PUB",
    type=click.Path(path_type=Path),
    help="Also require a signature with this public key (PEM, elliptic curve).",
)
@reporting
def verify(
    name_or_path: str,
    files_only: bool,
    provider: Literal["cpu", "cuda"] | None,
    key: Path | None,
) -> Report:
    """Verify the files and outputs of a package.

    The size and sha256 of every file must match the manifest, and no other files may exist. Only
    the card may have been edited. All graphs must be allowed in a package. Then the model runs on
    this machine and must reproduce its golden outputs.
    """
    package = local_package(name_or_path)
    try:
        package.verify()
    except IntegrityError as error:
        if is_path(name_or_path):
            raise
        raise IntegrityError(
            f"{error}; to repair it: zoo pull {name_or_path}", error.files
        ) from error
    check_content(package)
    name, files = package.config.name, len(package.manifest.files)
    data: dict[str, Any] = {
        "ok": True,
        "name": name,
        "revision": package.revision,
        "path": str(package.path),
        "files": files,
        "notes": package.notes(),
        "signed_by": None,
    }
    text = f"{name} {package.revision[:12]}: {files} files verified"
    if package.notes():
        text += f" ({', '.join(f'{file} {note}' for file, note in package.notes().items())})"
    if key is not None:
        data["signed_by"] = verify_signature(package, key)
        text += f", signed with {data['signed_by'][:16]}"
    if files_only:
        return Report(data, text)

    # Before this process loads the graphs.
    admit(package)

    from repzoo.runtime.encoder import Encoder
    from repzoo.runtime.golden import check_golden

    encoder = Encoder(package.path, package.config, revision=package.revision, provider=provider)
    deviations = check_golden(encoder)
    data["provider"] = encoder.provider
    data["golden"] = [deviation._asdict() for deviation in deviations]
    rows = [(d.output, f"{d.largest:.2g}", f"{d.tolerance:.2g}") for d in deviations]
    table = format_table(rows, ("OUTPUT", "OFF BY", "ALLOWED"))
    return Report(data, f"{text}, golden outputs verified on {encoder.provider}\n{table}")
