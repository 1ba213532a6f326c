"""Compare runs with each other and with published numbers, as ``zoo compare`` does.

>>> from repzoo_training.comparison import boards, measure_runs, Images
>>> runs = measure_runs(paths, Images(), ("knn", "linear"))
>>> for board in boards(runs):                      # one per data set
...     print(board_table(board, "markdown"))       # one row per method and budget
"""

from __future__ import annotations

from repzoo_training.comparison.pictures import draw, folder_names
from repzoo_training.comparison.rows import Board, Estimate, Row, boards
from repzoo_training.comparison.runs import ComparedRun, Images, measure_runs
from repzoo_training.comparison.table import board_data, board_table
from repzoo_training.results.published import Published, published

__all__ = [
    "Board",
    "ComparedRun",
    "Estimate",
    "Images",
    "Published",
    "Row",
    "board_data",
    "board_table",
    "boards",
    "draw",
    "folder_names",
    "measure_runs",
    "published",
]
