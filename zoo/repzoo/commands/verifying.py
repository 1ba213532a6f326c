"""`zoo verify`: are a package's files and outputs what they should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from repzoo.admission.first_load import admit
from repzoo.checks.content import check_content
from repzoo.commands.arguments import local_package, name_or_path_argument
from repzoo.packages.signatures import verify_signature
from repzoo.report import Report, format_table, reporting

__all__ = ["verify"]


@click.command()
@name_or_path_argument
@click.option("--files-only", is_flag=True, help="Check the files, do not run the model.")
@click.option(
    "--provider",
    type=click.Choice(["cpu", "cuda"]),
    help="What to run on. Default: CUDA where it works.",
)
@click.option(
    "--key",
    metavar="PUB",
    type=click.Path(path_type=Path),
    help="It must be signed with this key (PEM, elliptic curve).",
)
@reporting
def verify(
    name_or_path: str,
    files_only: bool,
    provider: Literal["cpu", "cuda"] | None,
    key: Path | None,
) -> Report:
    """Check a package in the cache or a folder.

    Size and sha256 of every file must be the manifest's, and there must be no other files; only the
    card may have been edited. Its graphs must be ones that a package may hold. Then the model runs
    on this machine, and must give its golden outputs.
    """
    package = local_package(name_or_path)
    package.verify()
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
    text = f"{name} {package.revision[:12]}: {files} files are right"
    if package.notes():
        text += f" ({', '.join(f'{file} {note}' for file, note in package.notes().items())})"
    if key is not None:
        data["signed_by"] = verify_signature(package, key)
        text += f", signed with {data['signed_by'][:16]}"
    if files_only:
        return Report(data, text)

    # Before this process loads its graphs.
    admit(package)

    from repzoo.runtime.encoder import Encoder
    from repzoo.runtime.golden import check_golden

    encoder = Encoder(package.path, package.config, revision=package.revision, provider=provider)
    deviations = check_golden(encoder)
    data["provider"] = encoder.provider
    data["golden"] = [deviation._asdict() for deviation in deviations]
    rows = [(d.output, f"{d.largest:.2g}", f"{d.tolerance:.2g}") for d in deviations]
    table = format_table(rows, ("OUTPUT", "OFF BY", "ALLOWED"))
    return Report(data, f"{text}, golden outputs too on {encoder.provider}\n{table}")
