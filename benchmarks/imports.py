"""What an import costs a fresh process."""

import subprocess
import sys
from collections.abc import Iterator
from time import perf_counter

__all__ = ["imported"]


def imported(_backend: str, _directory: str, *, statement: str) -> Iterator[float]:
    """Yield the milliseconds that a process takes which runs the import *statement* and nothing else."""
    while True:
        began = perf_counter()
        subprocess.run([sys.executable, "-I", "-c", statement], check=True)
        yield (perf_counter() - began) * 1e3
