"""Leases that were lost: what became of the run is not told over its new holder."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from taskq import TaskQ
from taskq.broker_adapters.memory.broker import HUBS, MemoryConsumer
from taskq.wire.message import Delivery, Message
from taskq.worker.intake.custody import Custody
from taskq.worker.intake.leases import Leases
from tests.harness import running
from tests.polling import eventually


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Asked:
    """A consumer, as far as leases know it: tells what was lost, counts the questions."""

    def __init__(self) -> None:
        self.lost: list[Delivery] = []
        self.questions = 0
        self.let_go: list[Delivery] = []

    async def renew(self, held: Any) -> list[Delivery]:
        self.questions += 1
        return [delivery for delivery in held if delivery in self.lost]

    async def settle(self, *, requeue: Sequence[Delivery]) -> None:
        self.let_go += requeue


def delivery() -> Delivery:
    return Delivery(Message({}, b""), "celery", None)


async def test_the_broker_is_asked_only_after_a_long_silence() -> None:
    clock, consumer, custody = Clock(), Asked(), Custody()
    leases = Leases(consumer, custody, lease=30.0, clock=clock)  # type: ignore[arg-type]  # its one verb
    one, two = delivery(), delivery()
    custody.take(one, None)
    custody.take(two, None)
    clock.now = 26.0
    assert await leases.lost([one]) == set()
    assert consumer.questions == 0
    clock.now = 28.0
    consumer.lost = [two]
    assert await leases.lost([one]) == set()
    assert consumer.questions == 1
    assert leases.age == 0.0
    assert await leases.lost([one, two]) == {two}
    assert await leases.lost([two]) == set()  # told once


async def test_what_was_claimed_before_a_long_silence_is_asked_for() -> None:
    """The claim was granted, then the worker stood still, then it read the answer."""
    clock, consumer = Clock(), Asked()
    leases = Leases(consumer, Custody(), lease=30.0, clock=clock)  # type: ignore[arg-type]  # its two verbs
    early, late = delivery(), delivery()
    consumer.lost = [late]
    clock.now = 5.0
    assert await leases.without_late(4.0, [early, late]) == [early, late]
    clock.now = 40.0
    leases.renewed(39.0, [])  # by the watchdog, which knows nothing of them yet
    assert await leases.without_late(5.0, [early, late]) == [early]
    assert consumer.let_go == [late]
    assert await leases.without_late(39.0, [early]) == [early]
    assert consumer.questions == 1


async def test_a_machine_that_slept_is_seen_by_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock that measures time stands still meanwhile on Linux."""
    leases = Leases(Asked(), Custody(), lease=30.0, clock=Clock())  # type: ignore[arg-type]  # its one verb
    assert not leases.stale
    awake = time.time()
    monkeypatch.setattr(time, "time", lambda: awake + 3600)
    assert leases.stale
    await leases.check()
    assert not leases.stale


async def test_nothing_begins_before_the_broker_was_asked(app: TaskQ) -> None:
    """What is another's by now does not; the rest does."""
    release = asyncio.Event()
    runs: list[int] = []

    @app.task
    async def act(number: int) -> int:
        runs.append(number)
        await release.wait()
        return number

    async with running(app, concurrency=1) as worker:
        results = [await act.delay(number) for number in range(3)]
        assert worker._parts is not None
        leases, custody, consumer = worker._parts.leases, worker._parts.custody, worker._parts.consumer
        await eventually(lambda: len(custody) == 3)
        asked = asyncio.Event()

        async def renew(held: Sequence[Delivery]) -> Sequence[Delivery]:
            asked.set()
            return [job.delivery for job in custody.jobs() if job.request.args == [1]]

        consumer.renew = renew  # type: ignore[method-assign]  # another worker has one of them
        leases._renewed -= 3600
        release.set()
        await results[2].get(timeout=10)
        assert asked.is_set()
        assert runs[:2] == [0, 2]  # the memory broker gave the other one out again


async def test_a_stale_end_is_not_stored(app: TaskQ) -> None:
    release = asyncio.Event()
    runs: list[str] = []

    @app.task
    async def act() -> str:
        runs.append("run")
        if len(runs) == 1:
            await release.wait()
            return "stale"
        return "fresh"

    hub = HUBS[app.conf.broker_url]
    async with running(app) as worker:
        result = await act.delay()
        await eventually(lambda: runs)
        stale = list(worker.running)
        [consumer] = hub._consumers
        with hub._lock:
            hub._give_back(consumer)  # as if its lease had run out; it is the next to take it
        assert await result == "fresh"
        assert worker._parts is not None
        worker._parts.leases.renewed(0.0, [job.delivery for job in stale])
        release.set()
        await eventually(lambda: not worker.running)
    assert (await result.refresh()).result == "fresh"
    assert hub.size("celery") == 0


async def test_an_early_acknowledgement_that_crosses_with_a_renewal_is_no_loss(app: TaskQ) -> None:
    """The renewal names what the broker has just been told is done: the result is stored all the same."""
    begun, release = asyncio.Event(), asyncio.Event()

    @app.task(acks_late=False)
    async def act() -> str:
        begun.set()
        await release.wait()
        return "done"

    async with running(app) as worker:
        result = await act.delay()
        await begun.wait()
        assert worker._parts is not None
        held = [job.delivery for job in worker.running]  # as it was asked for before the acknowledgement
        lost = await (await app.open_broker()).renew(held)
        assert lost == held
        worker._parts.leases.renewed(0.0, lost)
        release.set()
        assert await result.get(timeout=10) == "done"


@pytest.mark.parametrize("verb", ["park", "settle"])
async def test_a_renewal_that_crosses_with_the_end_of_a_custody_is_no_loss(
    app: TaskQ, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, verb: str
) -> None:
    @app.task
    async def act() -> str:
        return "done"

    crossed: list[Delivery] = []
    real = getattr(MemoryConsumer, verb)

    async with running(app) as worker:
        assert worker._parts is not None
        leases = worker._parts.leases

        async def crossing(self: MemoryConsumer, *args: Any, **kwargs: Any) -> None:
            held = leases.held()
            await real(self, *args, **kwargs)
            lost = await self.renew(held)
            leases.renewed(0.0, lost)
            crossed.extend(lost)

        monkeypatch.setattr(MemoryConsumer, verb, crossing)
        if verb == "park":
            await act.apply_async(countdown=1e6)
        else:
            assert await (await act.delay()).get(timeout=10) == "done"
        await eventually(lambda: crossed)
        assert leases.losses == 0
        assert leases._gone == set()
    assert "were lost" not in caplog.text


def test_renewals_and_losses_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    async def count() -> tuple[int, int]:
        custody = Custody()
        leases = Leases(Asked(), custody, lease=30.0, clock=Clock())  # type: ignore[arg-type]  # its one verb
        leases.renewed(1.0, [])
        lost = delivery()
        custody.take(lost, None)
        leases.renewed(2.0, [lost])
        return leases.renewals, leases.losses

    assert asyncio.run(count()) == (2, 1)
    assert "the leases of 1 deliveries were lost" in caplog.text
