"""Figures of what goes wrong: taskq and Celery through the same trials, on a private Redis, RabbitMQ or a SQLite file.

    python -m scripts.hazards [--broker redis|amqp|sqlite] [--system taskq|celery] [TRIAL ...]

Figures and what they mean: docs/reliability.md.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

from scripts.hazards import breakage, workload
from scripts.hazards.bench import Bench, Trial
from scripts.hazards.places import place

TRIALS: dict[str, Trial] = {
    "a": breakage.kills,
    "b": breakage.terms,
    "c": breakage.restarts,
    "d1": breakage.resets,
    "d2": breakage.black_hole,
    "d3": breakage.latency,
    "e": workload.poison,
    "f": workload.delayed,
    "g1": workload.blocked,
    "g2": workload.waits_for_ever,
    "g3": workload.spins_for_ever,
    "h": breakage.paused,
    "i": workload.many,
    "j": breakage.full,
}
#: Those that need a server.
SERVED = ("c", "d1", "d2", "d3", "j")


def run(trial: str, system: str, broker: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with place(broker, home, trial) as server:
            url = server.url if server is not None else f"sqlite:///{home}/taskq.db"
            return asyncio.run(TRIALS[trial](Bench(system, url, home, server)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.hazards")
    parser.add_argument("--broker", choices=("redis", "amqp", "sqlite"), default="redis")
    parser.add_argument("--system", choices=("taskq", "celery"))
    parser.add_argument("trials", nargs="*", metavar="TRIAL", help=" ".join(TRIALS))
    chosen = parser.parse_args()
    possible = [trial for trial in TRIALS if chosen.broker != "sqlite" or trial not in SERVED]
    systems = [chosen.system] if chosen.system else ["taskq", "celery"]
    for trial in chosen.trials or possible:
        print(f"{TRIALS[trial].__doc__}", flush=True)
        for system in systems if chosen.broker != "sqlite" else ["taskq"]:
            print(f"   {system:7} {run(trial, system, chosen.broker)}", flush=True)


if __name__ == "__main__":
    main()
