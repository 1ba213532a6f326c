"""``python -m repzoo_training ...`` is ``zoo train ...``: a module for ``torchrun`` to start."""

import sys

from repzoo.cli import main

sys.argv.insert(1, "train")
main()
