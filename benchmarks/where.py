"""Where our own time goes: `python -m benchmarks.where --broker redis` profiles client and worker in one process.

cProfile makes small Python functions look dearer than they are: it tells where to look, the benchmark what it costs.
"""

import argparse
import cProfile
import os
import pstats
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import uvloop

from benchmarks import sites
from benchmarks.side import at_once

SITES = {"memory": sites.memory, "sqlite": sites.sqlite, "redis": sites.redis, "amqp": sites.amqp}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.where", description=__doc__)
    parser.add_argument("--broker", choices=list(SITES), default="memory")
    parser.add_argument("--side", choices=["client", "worker"], default="worker")
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--lines", type=int, default=30)
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="taskq-bench-"))
        site = SITES[options.broker](stack)
        tally = Path(folder, "tally")
        tally.mkdir()
        os.environ["BENCH_BROKER"] = site.broker.format(folder=folder)
        os.environ["BENCH_RESULTS"] = site.results.format(folder=folder)
        os.environ["BENCH_VARIANT"] = ""
        os.environ["BENCH_TALLY"] = str(tally)
        profile = cProfile.Profile()
        uvloop.run(profiled(profile, options.side, options.tasks))
        pstats.Stats(profile).sort_stats("tottime").print_stats(options.lines)


async def profiled(profile: cProfile.Profile, side: str, tasks: int) -> None:
    from benchmarks.peers import ours  # noqa: PLC0415 - it reads the environment made above

    await ours.start()
    await ours.call_many(10)
    if side == "client":
        profile.enable()
    await at_once(ours, tasks)
    profile.disable()
    if side == "worker":
        profile.enable()
        await ours.drained(tasks + 10)
        profile.disable()
    await ours.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
