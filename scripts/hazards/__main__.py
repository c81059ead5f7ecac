"""Figures of what goes wrong: taskq and Celery through the same trials, on a private Redis, RabbitMQ or a SQLite file.

    python -m scripts.hazards [--broker redis|amqp|sqlite] [--system taskq|celery] [TRIAL ...]

Figures and what they mean: docs/reliability.md.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

from scripts.hazards.places import place
from scripts.hazards.trials import ANYWHERE, TRIALS, Bench


def run(trial: str, system: str, broker: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with place(broker, home, trial) as server:
            url = server.url if server is not None else f"sqlite:///{home}/taskq.db"
            return asyncio.run(TRIALS[trial](Bench(system, url, home, server)))  # type: ignore[arg-type]  # a Trial is a coroutine function


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.hazards")
    parser.add_argument("--broker", choices=("redis", "amqp", "sqlite"), default="redis")
    parser.add_argument("--system", choices=("taskq", "celery"))
    parser.add_argument("trials", nargs="*", metavar="TRIAL", help=" ".join(TRIALS))
    chosen = parser.parse_args()
    possible = TRIALS if chosen.broker != "sqlite" else ANYWHERE
    systems = [chosen.system] if chosen.system else ["taskq", "celery"]
    for trial in chosen.trials or possible:
        print(f"{TRIALS[trial].__doc__}", flush=True)
        for system in systems if chosen.broker != "sqlite" else ["taskq"]:
            print(f"   {system:7} {run(trial, system, chosen.broker)}", flush=True)


if __name__ == "__main__":
    main()
