"""Measure ``zoo --help`` against importing pydantic.

    python zoo/benchmarks/startup.py [ROUNDS]

Runs both in turn, so that a busy machine slows both alike, and prints the medians and their ratio.
The exit status is 1 if the ratio is more than 2.5.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ALLOWED = 2.5

COMMANDS = {
    "zoo --help": [str(Path(sysconfig.get_path("scripts"), "zoo")), "--help"],
    "import pydantic": [sys.executable, "-c", "import pydantic"],
}


def measure(rounds: int) -> dict[str, float]:
    """Return the median seconds of each command, after one run to warm the file cache."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in seconds.items()}


def main() -> int:
    medians = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
    for name, median in medians.items():
        print(f"{name:<16} {1000 * median:6.0f} ms")
    ratio = medians["zoo --help"] / medians["import pydantic"]
    print(f"{'ratio':<16} {ratio:6.2f}, at most {ALLOWED} is allowed")
    return int(ratio > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
