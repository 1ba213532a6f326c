"""`zoo verify`: are a package's files and outputs what they should be."""

from __future__ import annotations

from typing import Any, Literal

import click

from repzoo.admission import admit
from repzoo.commands.arguments import local_package, name_or_path_argument
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
@reporting
def verify(name_or_path: str, files_only: bool, provider: Literal["cpu", "cuda"] | None) -> Report:
    """Check a package in the cache or a folder.

    Size and sha256 of every file must be the manifest's, and there must be no other files. Then
    the model runs on this machine, and must give its golden outputs.
    """
    package = local_package(name_or_path)
    package.verify()
    name, files = package.config.name, len(package.manifest.files)
    data: dict[str, Any] = {
        "ok": True,
        "name": name,
        "revision": package.revision,
        "path": str(package.path),
        "files": files,
    }
    text = f"{name} {package.revision[:12]}: {files} files are right"
    if files_only:
        return Report(data, text)

    # Before this process loads its graphs.
    admit(package)

    from repzoo.encoder import Encoder
    from repzoo.golden import check_golden

    encoder = Encoder(package.path, package.config, revision=package.revision, provider=provider)
    deviations = check_golden(encoder)
    data["provider"] = encoder.provider
    data["golden"] = [deviation._asdict() for deviation in deviations]
    rows = [(d.output, f"{d.largest:.2g}", f"{d.tolerance:.2g}") for d in deviations]
    table = format_table(rows, ("OUTPUT", "OFF BY", "ALLOWED"))
    return Report(data, f"{text}, golden outputs too on {encoder.provider}\n{table}")
