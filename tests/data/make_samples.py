"""Make the small samples in this folder from whole data sets in Hugging Face's parquet layout.

    python tests/data/make_samples.py SOURCE

SOURCE holds the folders ``mnist``, ``fashion_mnist`` and ``cifar10``, each with ``train-*.parquet``
and ``test-*.parquet``. Rows are taken in their own order, the same number of each class.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

#: Folder -> rows of the train and of the test split.
SAMPLES = {"mnist": (2000, 500), "fashion_mnist": (200, 100), "cifar10": (100, 50)}


def balanced(table: pa.Table, rows: int) -> pa.Table:
    """Return the first ``rows`` rows with equally many of each class, in their original order."""
    labels = table["label"].to_numpy()
    classes = np.unique(labels)
    each = rows // len(classes)
    chosen = np.concatenate([np.flatnonzero(labels == label)[:each] for label in classes])
    return table.take(np.sort(chosen))


def main(source: Path, target: Path) -> None:
    for name, counts in SAMPLES.items():
        for split, rows in zip(("train", "test"), counts, strict=True):
            shards = sorted((source / name).glob(f"{split}-*.parquet"))
            table = pa.concat_tables(pq.read_table(shard) for shard in shards)
            path = target / name / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(exist_ok=True)
            # Images are compressed already, and differ: dictionaries only cost room.
            sample = balanced(table, rows)
            pq.write_table(sample, path, compression="zstd", use_dictionary=["label"])
            print(
                f"{path.relative_to(target)}: {sample.num_rows} rows, {path.stat().st_size} bytes"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parent)
