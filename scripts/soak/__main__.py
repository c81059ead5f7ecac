"""Random faults for a while, and what they cost: `make soak`, `make soak BROKER=amqp SOAK=3600`.

    python -m scripts.soak [--broker redis|amqp|sqlite] [--seconds 120] [--seed N]

Prints the figures as JSON, see docs/reliability.md. Ends with 1 where something was lost, came early or ended by itself, or
where memory grows.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
from pathlib import Path

from scripts.soak.places import PLACES
from scripts.soak.run import Soak

#: What a process may gain in memory, in kB a minute, once it is warm: more is a leak.
STEEPEST = 1024.0
#: Shorter runs are too short to tell a leak from warming up, in seconds.
LONG = 600


def good(figures: dict[str, object], seconds: float) -> bool:
    """Whether all that is promised was kept."""
    wrong = ("lost", "unanswered", "early", "ended_by_itself", "unclean_exits", "dead_letters")
    slopes = (
        [float(str(figures[f"{who}_kb_per_minute"])) for who in ("worker", "client")]
        if seconds >= LONG
        else []
    )
    return not any(figures[name] for name in wrong) and all(slope <= STEEPEST for slope in slopes)


async def soak(broker: str, seconds: float, seed: int, folder: Path) -> dict[str, object]:
    async with PLACES[broker](folder) as place:
        run = Soak(place, folder, seconds, random.Random(seed))  # noqa: S311 - no secret
        return await run.figures()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.soak")
    parser.add_argument("--broker", choices=list(PLACES), default="redis")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))  # noqa: S311 - no secret
    chosen = parser.parse_args()
    print(f"soak: {chosen.broker}, {chosen.seconds:g} s, seed {chosen.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="taskq-soak-", ignore_cleanup_errors=True) as folder:
        figures = asyncio.run(soak(chosen.broker, chosen.seconds, chosen.seed, Path(folder)))
        kept = good(figures, chosen.seconds)
        if not kept:
            print(Path(folder, "workers.log").read_text(errors="replace")[-20_000:], file=sys.stderr)
    print(json.dumps(figures, indent=2))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
