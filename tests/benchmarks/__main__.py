"""python -m tests.benchmarks STUDY [options]"""

from __future__ import annotations

import importlib
import sys

if __name__ == "__main__":
    sys.exit(importlib.import_module(f".studies.{sys.argv.pop(1)}", __package__).main())
