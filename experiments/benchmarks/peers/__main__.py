"""Run as a folder, `python experiments/benchmarks/peers ...`: see `compare`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from peers.compare import main

main()
