"""What a worker holds is bounded in bytes, wherever the messages come from."""

import asyncio
from typing import Any

import pytest

from taskq import TaskQ
from taskq.broker_adapters.amqp.consumer import AmqpConsumer
from taskq.worker.worker import Worker
from tests.harness import Place, running
from tests.polling import eventually

MEGABYTE = 1_000_000
BUDGET = 10 * MEGABYTE


def held(worker: Worker) -> int:
    """What is in its hands, by bytes: on RabbitMQ also what was pushed and not asked for yet."""
    parts = worker._parts
    assert parts is not None
    consumer: Any = parts.consumer
    return max(parts.custody.bytes, consumer._session.bytes if isinstance(consumer, AmqpConsumer) else 0)


class Heavy:
    """A task that waits to be released, and the most that its worker was seen to hold."""

    def __init__(self, app: TaskQ) -> None:
        self.release = asyncio.Event()
        self.most = 0
        self.worker: Worker | None = None
        self.task = app.task(name="proj.heavy")(self._run)

    async def _run(self, text: str) -> int:
        self.look()
        await self.release.wait()
        self.look()
        return len(text)

    def look(self) -> None:
        if self.worker is not None:
            self.most = max(self.most, held(self.worker))


async def test_large_messages_stay_in_the_broker_until_there_is_room(on_all_brokers: Place) -> None:
    async with on_all_brokers.app(worker_held_bytes=BUDGET) as app:
        heavy = Heavy(app)
        results = [await heavy.task.delay("x" * MEGABYTE) for _ in range(40)]
        async with running(app) as worker:
            heavy.worker = worker
            # On Redis, SQLite and in memory envelopes count, which are larger: so the claim may end earlier.
            await eventually(lambda: held(worker) >= 0.9 * BUDGET)
            await eventually(lambda: worker._parts is not None and worker._parts.intake.room == 0)
            heavy.look()
            assert len(worker.running) <= BUDGET // MEGABYTE
            heavy.release.set()
            assert [await result.get(60) for result in results] == [MEGABYTE] * 40
            await eventually(lambda: held(worker) == 0)
        assert heavy.most <= BUDGET + 1.1 * MEGABYTE


async def test_one_that_is_larger_than_all_the_room_is_run(on_all_brokers: Place) -> None:
    async with on_all_brokers.app(worker_held_bytes=1000) as app:
        heavy = Heavy(app)
        heavy.release.set()
        results = [await heavy.task.delay("x" * size) for size in (5000, 10, 20_000, 3000)]
        async with running(app):
            assert [await result.get(30) for result in results] == [5000, 10, 20_000, 3000]


async def test_what_waits_for_its_eta_leaves_room_for_what_could_run(place: Place) -> None:
    async with place.app(worker_held_bytes=BUDGET) as app:
        heavy = Heavy(app)
        heavy.release.set()
        later = [await heavy.task.apply_async(("x" * MEGABYTE,), countdown=30) for _ in range(12)]
        async with running(app) as worker:
            result = await heavy.task.delay("x" * MEGABYTE)
            assert await result.get(20) == MEGABYTE
            assert worker._parts is not None
            assert (
                MEGABYTE <= worker._parts.custody.bytes <= 7 * MEGABYTE
            )  # some here, the others in the broker
        assert [await result.ready() for result in later] == [False] * 12


@pytest.mark.rabbitmq
@pytest.mark.redis
async def test_rabbitmq_pushes_as_many_again_when_messages_are_small(place_rabbitmq: Place) -> None:
    async with place_rabbitmq.app(worker_held_bytes=BUDGET) as app:
        heavy = Heavy(app)
        large = [await heavy.task.delay("x" * MEGABYTE) for _ in range(30)]
        async with running(app) as worker:
            assert worker._parts is not None
            window = worker._parts.consumer._window  # type: ignore[attr-defined]  # RabbitMQ's own
            assert window.most == 800
            await eventually(lambda: window.size == 1)
            heavy.release.set()
            assert [await result.get(60) for result in large] == [MEGABYTE] * 30
            assert window.size < 20
            small = [await heavy.task.delay("x") for _ in range(50)]
            assert [await result.get(60) for result in small] == [1] * 50
            await eventually(lambda: window.size == window.most)
