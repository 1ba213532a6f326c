"""Write a sample's images as files: ``python tests/data/unpack.py cifar10 photos``.

With ``--classes``, each class has a folder of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

try:
    import pyarrow.parquet as pq
except ImportError:
    sys.exit("unpack.py needs pyarrow, which serving does not: pip install pyarrow")

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("sample", help="a folder next to this file, such as cifar10")
parser.add_argument("out", type=Path, help="the new folder")
parser.add_argument("--classes", action="store_true", help="write a folder per class")
arguments = parser.parse_args()

file = Path(__file__).parent / arguments.sample / "train-00000-of-00001.parquet"
rows = pq.read_table(file, columns=["image", "label"])
features = json.loads(rows.schema.metadata[b"huggingface"])["info"]["features"]
names = features["label"]["names"]
arguments.out.mkdir()
for number, (row, label) in enumerate(
    zip(rows["image"].to_pylist(), rows["label"].to_pylist(), strict=True)
):
    folder = arguments.out / names[label].replace("/", "-") if arguments.classes else arguments.out
    folder.mkdir(exist_ok=True)
    (folder / f"{number:04d}.png").write_bytes(row["bytes"])
