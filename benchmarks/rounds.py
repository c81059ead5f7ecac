"""What is measured of a system in one round, and how rounds become one table of medians."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import Failure, Site, System, stage


@dataclass(frozen=True)
class Sizes:
    """How many tasks of each kind; `scale` divides what a system drains in one go."""

    single: int = 500
    trips: int = 100
    awaited: int = 1000
    scale: int = 1

    def of(self, system: System) -> int:
        return system.tasks // self.scale


QUICK = Sizes(single=20, trips=10, awaited=50, scale=20)


def one_round(system: System, site: Site, sizes: Sizes) -> dict[str, Any]:
    n = sizes.of(system)
    with stage(system, site, results=True, workers=1) as scene:
        many = scene.enqueue_then_drain("at_once", n)
        figures: dict[str, Any] = {
            "enqueue many": many["enqueue"],
            "drain": many["drain"],
            "enqueue concurrently": many["enqueue"]
            if not system.batches
            else scene.enqueue_then_drain("concurrently", n)["enqueue"],
            "enqueue singly": scene.enqueue_then_drain("one_by_one", sizes.single)["enqueue"],
            "round trip": scene.round_trips(sizes.trips),
            "end to end": scene.end_to_end(sizes.awaited),
            "memory": {"worker_mb": scene.workers[0].peak() / 1e6, "client_mb": scene.client.peak() / 1e6},
        }
    with stage(system, site, results=False, workers=1) as scene:
        many = scene.enqueue_then_drain("at_once", n)
        figures["enqueue many, no results"] = many["enqueue"]
        figures["drain, no results"] = many["drain"]
    with stage(system, site, results=True, workers=2) as scene:
        figures["drain by two"] = scene.enqueue_then_drain("at_once", n)["drain"]
    return figures


def one_drain(system: System, site: Site, sizes: Sizes) -> dict[str, Any]:
    """Only enough to compare ways of running the same system."""
    with stage(system, site, results=True, workers=1) as scene:
        many = scene.enqueue_then_drain("at_once", sizes.of(system))
    return {"enqueue many": many["enqueue"], "drain": many["drain"]}


def one_inside(system: System, site: Site, sizes: Sizes) -> dict[str, Any]:
    figures = {}
    for results in (True, False):
        with stage(system, site, results=results, workers=0) as scene:
            many = scene.inside(sizes.of(system))
            suffix = "" if results else ", no results"
            figures["enqueue many" + suffix] = many["enqueue"]
            if results:
                figures["drain"] = many["drain"]
                figures["memory"] = {"client_mb": scene.client.peak() / 1e6}
    return figures


Measure = Callable[[System, Site, Sizes], dict[str, Any]]


def interleaved(
    systems: Sequence[System],
    site: Site,
    sizes: Sizes,
    rounds: int,
    measure: Measure,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Every system once per round, so that a noisy minute hits all of them; the median of each figure."""
    found: dict[str, list[dict[str, Any]]] = {system.name: [] for system in systems}
    for turn in range(rounds):
        for system in [system for system in systems if len(found[system.name]) == turn]:
            say(f"round {turn + 1} of {rounds}: {system.name}")
            try:
                found[system.name].append(measure(system, site, sizes))
            except Failure as failure:
                say(f"left out: {failure}")
    return {name: medians(runs) for name, runs in found.items() if runs}


def medians(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    return {
        scenario: {
            figure: statistics.median(run[scenario][figure] for run in runs if scenario in run)
            for figure, value in figures.items()
            if isinstance(value, int | float)
        }
        for scenario, figures in runs[0].items()
    }
