"""Leases that were lost: what became of the run is not told over its new holder."""

import asyncio
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

    async def renew(self, held: Any) -> list[Delivery]:
        self.questions += 1
        return [delivery for delivery in held if delivery in self.lost]


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
