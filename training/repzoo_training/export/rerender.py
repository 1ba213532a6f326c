"""Render the cards of packages again and update their manifests.

    python -m repzoo_training.export.rerender zoo/bundled/*

The revision of a package changes if its card does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from repzoo.packages.package import write_manifest

from repzoo_training.export.card import write_card

__all__ = ["main"]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", nargs="+", type=Path, help="folders of packages")
    for folder in parser.parse_args().packages:
        write_card(folder)
        print(f"{folder}: {write_manifest(folder).revision[:12]}")


if __name__ == "__main__":
    main()
