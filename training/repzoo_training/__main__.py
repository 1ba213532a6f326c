"""``python -m repzoo_training ...`` runs ``zoo train ...``, for ``torchrun``."""

import sys

from repzoo.cli import main

sys.argv.insert(1, "train")
main()
