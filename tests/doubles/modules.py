"""The modules of the package."""

import re
from pathlib import Path

import fapilog

__all__ = ["MODULES", "PUBLIC", "ROOT"]


ROOT = Path(fapilog.__file__).parent


MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


PUBLIC = [path for path in MODULES if not any(re.match(r"_(?!_init__)", part) for part in path.parts)]
