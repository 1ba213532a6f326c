"""Write a sample's images as files: ``python tests/data/unpack.py cifar10 photos``."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.parquet as pq

sample, out = sys.argv[1], Path(sys.argv[2])
file = Path(__file__).parent / sample / "train-00000-of-00001.parquet"
rows = pq.read_table(file, columns=["image"])
out.mkdir()
for number, row in enumerate(rows["image"].to_pylist()):
    (out / f"{number:04d}.png").write_bytes(row["bytes"])
