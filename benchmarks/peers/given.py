"""What the harness tells a system under test, by its environment."""

import os
from pathlib import Path

from benchmarks.tally import Tally

#: Address of the broker; for SQLite the path of the file.
BROKER = os.environ["BENCH_BROKER"]
#: Address of the result store; empty: run without results.
RESULTS = os.environ["BENCH_RESULTS"]
#: Which of several ways of running the same system, where there are several.
VARIANT = os.environ["BENCH_VARIANT"]
#: Calls that are under way at the same time when many are made at once, and tasks that an asynchronous worker runs at the same time.
IN_FLIGHT = 1000
CONCURRENCY = 100

tally = Tally(Path(os.environ["BENCH_TALLY"]))
