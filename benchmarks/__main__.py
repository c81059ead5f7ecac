"""taskq beside its peers: `python -m benchmarks --broker sqlite|memory|redis|amqp`, see docs/performance.md."""

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from benchmarks import report, sites
from benchmarks.harness import PEERS_PYTHON, Failure, Site, System
from benchmarks.rounds import QUICK, Measure, Sizes, interleaved, one_drain, one_inside, one_round
from taskq.version import VERSION

OURS = System("taskq", "ours", tasks=10_000, batches=True)


CELERY = [System(f"Celery {pool}", "celery_app", variant=pool) for pool in ("solo", "threads", "prefork")]


@dataclass(frozen=True)
class Plan:
    """What is measured on one broker. Of `ways`, ways of running one system, the cheapest worker joins the peers."""

    site: Callable[[ExitStack], Site]
    peers: Sequence[System] = ()
    ways: Sequence[System] = ()
    measure: Measure = one_round
    packages: Sequence[str] = ()


PLANS: Mapping[str, Plan] = {
    "memory": Plan(sites.memory, measure=one_inside),
    "sqlite": Plan(
        sites.sqlite,
        [System("Huey", "huey_sqlite", 2000), System("Huey, fsync=False", "huey_sqlite", 2000, "nosync")],
        packages=["huey"],
    ),
    "redis": Plan(
        sites.redis,
        [
            System("Dramatiq", "dramatiq_app"),
            System("taskiq", "taskiq_app"),
            System("SAQ", "saq_app"),
            System("streaq", "streaq_app", batches=True),
        ],
        CELERY,
        packages=["celery", "dramatiq", "taskiq", "taskiq-redis", "saq", "streaq", "redis"],
    ),
    "amqp": Plan(
        sites.amqp,
        [
            System("Dramatiq", "dramatiq_app"),
            System("taskiq", "taskiq_app"),
            System("aio-celery", "aio_celery_app"),
        ],
        CELERY,
        packages=["celery", "dramatiq", "taskiq", "taskiq-aio-pika", "aio-celery", "aio-pika", "pika"],
    ),
}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--broker", choices=[*PLANS, "all"], default="all", help="default: all of them")
    parser.add_argument("--rounds", type=int, default=3, help="the table shows medians (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one round of few tasks: does it run at all?")
    parser.add_argument(
        "--only", action="append", help="only the systems whose name has this, and save nothing"
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds = 1
    for broker in PLANS if options.broker == "all" else [options.broker]:
        with ExitStack() as stack:
            figures = measured(PLANS[broker], stack, options)
        print(report.table(broker, figures))
        if not (options.quick or options.only):
            report.save(broker, figures, versions(PLANS[broker].packages))
    return 0


def measured(plan: Plan, stack: ExitStack, options: argparse.Namespace) -> dict[str, Any]:
    others = [s for s in (*plan.peers, *plan.ways) if any(part in s.name for part in options.only or [""])]
    if others and not PEERS_PYTHON.exists():
        sys.exit(f"no {PEERS_PYTHON}: run `make bench`, which sets it up")
    site = plan.site(stack)
    sizes = QUICK if options.quick else Sizes()
    systems = [OURS, *plan.peers]
    tried = {}
    if plan.ways and not options.only:
        tried = interleaved(plan.ways, site, replace(sizes, scale=max(2, sizes.scale)), 1, one_drain, say)
        cheapest = min(tried, key=lambda name: tried[name]["drain"]["worker_us"])
        best = next(way for way in plan.ways if way.name == cheapest)
        systems.append(best)
    if options.only:
        systems = [s for s in (*systems, *plan.ways) if any(part in s.name for part in options.only)]
    figures = interleaved(systems, site, sizes, options.rounds, plan.measure, say)
    return {"systems": figures, "ways": tried, "rounds": options.rounds}


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of our own package and of what is in the peers' environment."""
    found = {"taskq": VERSION}
    if packages:
        code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
        output = subprocess.run(
            [PEERS_PYTHON, "-c", code, *packages], check=True, capture_output=True, text=True
        ).stdout
        found |= zip(packages, output.split(), strict=True)
    return found


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and workers are ended then, too
    try:
        sys.exit(main(sys.argv[1:]))
    except Failure as failure:
        sys.exit(f"bench: {failure}")
