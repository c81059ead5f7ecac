"""What a second worker process brings: `python -m benchmarks.processes --broker sqlite|redis|amqp`.

`taskq worker --processes 1` and `--processes 2` take turns at draining the same number of tasks, of two kinds: plain functions
that compute for about 2 ms, and tasks that do nothing. Beside them one and two plain Python processes compute the same on
their own: more than these gain nobody can, and on a shared machine that is not always 2.

The bound of a row is what two processors allow: one process is held up by its own CPU, two also by the server's, so it is
2 x (worker's CPU per task, with one process) / (worker's and server's CPU per task, with two), at most 2.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from benchmarks import sites
from benchmarks.harness import Failure, Site, System, stage
from benchmarks.spin import machine_rate

SITES = {"sqlite": sites.sqlite, "redis": sites.redis, "amqp": sites.amqp}
MACHINE = "plain Python, no queue"
PARTS = ("worker_us", "server_us")


@dataclass(frozen=True)
class Kind:
    """A kind of tasks."""

    title: str
    module: str
    tasks: int


KINDS = (Kind("2 ms of Python", "ours_spin", 2000), Kind("no-op", "ours", 10_000))


@dataclass(frozen=True)
class Drain:
    """What one drain took."""

    rate: float
    worker_us: float = 0.0
    server_us: float = 0.0
    least: float = 0.0  # the smaller share of two processes


def drained(kind: Kind, site: Site, processes: int, n: int) -> Drain:
    system = System(kind.title, kind.module, variant=str(processes))
    with stage(system, site, results=True, workers=1) as scene:
        scene.warm_up(processes)
        before = scene.counts()
        found = scene.enqueue_then_drain("at_once", n)["drain"]
        shares = [(after - early) / n for after, early in zip(scene.counts(), before, strict=True)]
        return Drain(found["rate"], found["worker_us"], found["server_us"], min(shares))


Pair = tuple[Drain, Drain]


def rounds(site: Site, turns: int, scale: int) -> dict[str, list[Pair]]:
    """Each kind with one process and with two, in every round."""
    found: dict[str, list[Pair]] = {MACHINE: [], **{kind.title: [] for kind in KINDS}}
    for turn in range(turns):
        print(f"processes: round {turn + 1} of {turns}", file=sys.stderr, flush=True)
        one, two = (Drain(machine_rate(processes, 2.0 / scale)) for processes in (1, 2))
        found[MACHINE].append((one, two))
        for kind in KINDS:
            one, two = (drained(kind, site, processes, kind.tasks // scale) for processes in (1, 2))
            found[kind.title].append((one, two))
    return found


def table(found: dict[str, list[Pair]]) -> str:
    machine = gain(found[MACHINE])
    lines = [
        "| tasks | two / one, tasks/s | of the machine's | bound | CPU of worker and server, us/task: one | two | smaller share |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        f"| {MACHINE} | {machine:.2f} | | | | | |",
    ]
    for title, pairs in list(found.items())[1:]:
        cpu = [[median(getattr(pair[side], part) for pair in pairs) for part in PARTS] for side in (0, 1)]
        cells = [
            f"{gain(pairs):.2f}",
            f"{gain(pairs) / machine:.0%}",
            f"{min(2.0, 2 * cpu[0][0] / sum(cpu[1])):.2f}",
        ]
        cells += [f"{worker:,.0f} + {server:,.0f}" for worker, server in cpu]
        cells += [f"{median(two.least for _, two in pairs):.0%}"]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def gain(pairs: Sequence[Pair]) -> float:
    return median(two.rate / one.rate for one, two in pairs)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.processes", description=__doc__)
    parser.add_argument("--broker", choices=list(SITES), default="redis")
    parser.add_argument("--rounds", type=int, default=5, help="the table shows medians (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one round of few tasks: does it run at all?")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        site = SITES[options.broker](stack)
        found = rounds(site, 1, 20) if options.quick else rounds(site, options.rounds, 1)
    print(table(found))
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and workers are ended then, too
    try:
        sys.exit(main(sys.argv[1:]))
    except Failure as failure:
        sys.exit(f"processes: {failure}")
