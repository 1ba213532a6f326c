"""Build a bento of the server that includes models:

    python serving/deploy/bento.py --models simvae-mnist
    bentoml serve repzoo:latest
    bentoml containerize repzoo:latest       # needs docker

The bento holds wheels of this checkout, copies of the verified packages, and locked versions of
the requirements. Configure it with the variables of `repzoo_serving.configuration`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import PathDistribution
from pathlib import Path

import bentoml
import click
from packaging.requirements import Requirement
from repzoo.loading import find

ROOT = Path(__file__).resolve().parents[2]
SERVICE = "repzoo_serving.service:RepzooService"
EXTRAS = ("serving", "tracing")

#: The platform of a container.
PLATFORM = {"sys_platform": "linux", "platform_machine": "x86_64"}


@click.command()
@click.option("--models", default="simvae-mnist", show_default=True, metavar="NAME[,NAME...]")
@click.option("--hub", help="Hub in which names are looked up.")
@click.option(
    "--lock/--no-lock", default=True, help="Whether to lock versions, which asks the package index."
)
def main(models: str, hub: str | None, lock: bool) -> None:
    """Build a bento and print its tag."""
    with tempfile.TemporaryDirectory(prefix="repzoo-bento-") as folder:
        context = Path(folder)
        names = [_copy(name, hub, context / "models") for name in models.split(",")]
        # The client computes the distances of an index, for REPZOO_SERVE_INDEX.
        wheels = [_wheel(source, context / "wheels") for source in (ROOT, ROOT / "clients/python")]
        required = {line for wheel in wheels for line in _requirements(wheel, EXTRAS)}
        lines = [*(f"./wheels/{wheel.name}" for wheel in wheels), *sorted(required)]
        (context / "requirements.txt").write_text("\n".join(lines) + "\n")
        # Paths are relative: a bento is served from the folder of its sources.
        env = {
            "REPZOO_SERVE_MODELS": ",".join(f"./models/{name}" for name in names),
            "REPZOO_CACHE": "/tmp/repzoo",
        }
        bentofile = {
            "service": SERVICE,
            "name": "repzoo",
            "include": ["models/**", "wheels/*", "requirements.txt"],
            "docker": {"python_version": f"{sys.version_info.major}.{sys.version_info.minor}"},
            "python": {"requirements_txt": "requirements.txt", "lock_packages": lock},
            "envs": [{"name": name, "value": value} for name, value in env.items()],
        }
        file = context / "bentofile.yaml"
        file.write_text(json.dumps(bentofile))  # JSON is YAML
        bento = bentoml.bentos.build_bentofile(str(file), build_ctx=folder)
    click.echo(bento.tag)


def _copy(reference: str, hub: str | None, models: Path) -> str:
    """Copy the verified package of a reference, and return its name."""
    package = find(reference.strip(), hub=hub)
    shutil.copytree(package.path, models / package.config.name)
    return package.config.name


def _wheel(source: Path, out: Path) -> Path:
    words = ("wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--wheel-dir")
    subprocess.run([sys.executable, "-m", "pip", *words, str(out), str(source)], check=True)
    return max(out.glob("*.whl"), key=lambda wheel: wheel.stat().st_mtime_ns)


def _requirements(wheel: Path, extras: Iterable[str]) -> Iterator[str]:
    """Return a wheel's requirements with extras, which a path in requirements.txt cannot name."""
    (about,) = (e for e in zipfile.Path(wheel).iterdir() if e.name.endswith(".dist-info"))
    for line in PathDistribution(about).requires or []:
        needed = Requirement(line)
        if any(
            needed.marker is None or needed.marker.evaluate({**PLATFORM, "extra": extra})
            for extra in extras
        ):
            if needed.name == "repzoo":
                yield from _requirements(wheel, needed.extras)
            else:
                needed.marker = None
                yield str(needed)


if __name__ == "__main__":
    main()
