"""Random workflows, run by real workers that die at any point, give what plain Python gives."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from taskq.broker_adapters.memory.broker import HUBS, MessageHub
from taskq.seams.urls import SCHEMES, Scheme
from taskq.wire.envelope import loads
from tests.canvas.chaos import Fate
from tests.canvas.plans import Line, Maker, Meet, Plan, Side, Step
from tests.canvas.universe import LEASE, Universe, run

Sent = Counter[tuple[str, str, int, str]]


@pytest.fixture(autouse=True)
def chaos(monkeypatch: pytest.MonkeyPatch) -> None:
    chaotic = Scheme("tests.canvas.chaos:ChaosBroker", "tests.canvas.chaos:ChaosStore")
    monkeypatch.setitem(SCHEMES, "chaos", chaotic)
    monkeypatch.setattr("taskq.broker_adapters.memory.store.CHORD_CLAIM", LEASE)
    monkeypatch.setattr("taskq.broker_adapters.sqlite.chords.CHORD_CLAIM", LEASE)
    monkeypatch.setattr("taskq.seams.store.CLAIM_LOOK", 0.02)


class Recorder:
    """Every message that was put into a queue of a memory broker, redeliveries aside."""

    def __init__(self, hub: MessageHub) -> None:
        self.sent: Sent = Counter()
        self._add = hub.add
        hub.add = self.add  # type: ignore[method-assign]  # looks on

    def add(self, messages: Iterable[tuple[str, int, bytes]]) -> None:
        messages = list(messages)
        for _, _, raw in messages:
            headers = loads(raw).headers
            self.sent[headers["task"], headers["id"], headers["retries"], headers["argsrepr"]] += 1
        self._add(messages)


async def memory_run(
    plan: Plan, *lives: Sequence[tuple[int, bool] | None], lapse: bool = False
) -> tuple[Counter[str], Counter[str]]:
    """Run a plan; the notes that were written and those that should be."""
    url = f"memory://{uuid.uuid4()}"
    universe, recorder = Universe(url), Recorder(HUBS[url])
    if lapse:
        universe.slow = {f"t{number}" for number in range(1, 30, 4)}
    fates = [[fate(url, hour, lapse=lapse) for hour in line] for line in lives]
    notes = await run(universe, plan, *fates)
    assert max(recorder.sent.values()) == 1, recorder.sent.most_common(3)
    return universe.notes, notes


def fate(url: str, hour: tuple[int, bool] | None, *, lapse: bool = False) -> Fate:
    return Fate(url, lapse=lapse) if hour is None else Fate(url, hour[0], before=hour[1], lapse=lapse)


async def in_batches(cases: Sequence[Any], run_one: Callable[[Any], Any], at_once: int = 10) -> None:
    """Many little worlds at once: they mostly wait."""
    for start in range(0, len(cases), at_once):
        await asyncio.gather(*(run_one(case) for case in cases[start : start + at_once]))


async def test_random_workflows_give_what_the_reference_gives() -> None:
    async def one(seed: int) -> None:
        written, wanted = await memory_run(Maker(seed).plan(), [None])
        assert written == wanted, seed

    await in_batches(range(150), one)


EVERYTHING = Line(
    [
        Step("a", links=["0", "1"]),
        Side([Step("b", links=["0"]), Line([Step("c", how="retry"), Step("d")])]),
        Meet(
            [
                Step("e", how="add", inner=Line([Step("f"), Step("g")])),
                Meet([Step("h"), Step("i")], Step("j", links=["0"])),
                Step("k", how="replace", inner=Side([Step("l"), Step("m", links=["0"])])),
            ],
            Line([Step("n"), Step("o", links=["0"])]),
        ),
        Side([Step("p"), Step("q")]),
    ]
)
FAILING = Meet(
    [Step("a"), Line([Step("b", how="fail", errbacks=["error 0"]), Step("c")]), Step("d")],
    Line([Step("e", errbacks=["error 0"]), Step("f", links=["0"])]),
)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("plan", [EVERYTHING, FAILING], ids=["everything", "failing"])
async def test_a_worker_that_dies_between_any_two_effects(plan: Plan) -> None:
    url = f"memory://{uuid.uuid4()}"
    undisturbed = Fate(url)
    await run(Universe(url), plan, [undisturbed])
    hours = [(hour, before) for hour in range(1, len(undisturbed.effects) + 1) for before in (True, False)]

    async def one(hour: tuple[int, bool]) -> None:
        await memory_run(plan, [hour, None])

    await in_batches(hours, one, at_once=20)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_random_workflows_among_workers_that_die() -> None:
    async def one(seed: int) -> None:
        random = Random(seed)
        lives = [
            [*((random.randint(1, 12), random.random() < 0.5) for _ in range(random.randint(0, 2))), None]
            for _ in range(2)
        ]
        await memory_run(Maker(seed).plan(), *lives)

    await in_batches(range(1000, 1060), one, at_once=12)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_what_takes_long_runs_twice_and_counts_once() -> None:
    """Two workers that never renew a lease: what is slow is with both of them at the same time."""

    async def one(seed: int) -> None:
        await memory_run(Maker(seed).plan(), [None], [None], lapse=True)

    await in_batches(range(2000, 2030), one, at_once=10)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_the_same_on_sqlite(tmp_path: Path) -> None:
    async def one(seed: int) -> None:
        url = f"sqlite:///{tmp_path}/{seed}.db?synchronous=normal"
        random = Random(seed)
        lives = [
            [Fate(url, random.randint(1, 12), before=random.random() < 0.5), Fate(url)] for _ in range(2)
        ]
        await run(Universe(url), Maker(seed).plan(), *lives)

    await in_batches(range(3000, 3020), one, at_once=5)
