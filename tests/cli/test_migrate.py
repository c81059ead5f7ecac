"""`taskq migrate`: from file to Redis to RabbitMQ, killed on the way."""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import time

import pytest

from taskq.seams.broker import Broker, BrokerConfig, open_broker
from taskq.wire.message import Delivery, Message
from tests.cli.conftest import Taskq
from tests.commands import run_taskq, running_taskq
from tests.polling import eventually
from tests.rabbit import rabbit_vhost
from tests.servers import redis_server

TASKS = 5_000
#: As in the command: what may be in flight when it is killed.
BATCH = 500


def message(number: int, queue: str = "celery", eta: float | None = None) -> Message:
    text = None if eta is None else datetime.fromtimestamp(eta, UTC).isoformat()
    return Message(
        {"task": "t", "id": f"id-{number}", "eta": text},
        b"[[], {}, {}]",
        correlation_id=f"id-{number}",
        routing_key=queue,
        due=eta,
    )


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Broker]:
    broker = open_broker(BrokerConfig(url))
    await broker.open()
    try:
        yield broker
    finally:
        await broker.close()


async def drain(broker: Broker, count: int, queue: str = "celery") -> list[Delivery]:
    consumer = await broker.consume([queue], prefetch=1000)
    taken: list[Delivery] = []
    async with asyncio.timeout(30):
        while len({delivery.message.headers["id"] for delivery in taken}) < count or await broker.size(queue):
            batch = await consumer.receive(1000)
            await consumer.settle(ack=batch)
            taken += batch
    await consumer.close()
    return taken


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.message.headers["id"] for delivery in deliveries]


@pytest.fixture
def file(folder: Path) -> str:
    return f"sqlite:///{folder}/from.db"


async def test_all_that_waits_is_moved(taskq: Taskq, folder: Path, file: str) -> None:
    target = f"sqlite:///{folder}/to.db"
    far = time() + 3600
    sent = [message(1), message(2, "slow"), message(3, eta=far), message(4, "other"), message(5, eta=far)]
    async with opened(file) as old:
        await old.publish(sent)
        await old.revoke(["id-2", "id-5"], far)
        consumer = await old.consume(["celery"], prefetch=1)
        await old.publish([message(6)])
        (held,) = await consumer.receive(1)
        await consumer.settle(reject=[(held, "no good")])
        await consumer.close()
    said = await asyncio.to_thread(taskq, "migrate", file, target, "-Q", "celery,slow", "--json")
    assert said.code == 0, said.err
    assert [json.loads(line) for line in said.out.splitlines()] == [
        {"queue": "celery", "moved": 3, "left": 0},
        {"queue": "slow", "moved": 1, "left": 0},
    ]
    async with opened(file) as old, opened(target) as new:
        assert [await old.size(queue) for queue in ("celery", "slow", "other")] == [0, 0, 1]
        assert not await old.dead()
        assert [await new.size(queue) for queue in ("celery", "slow", "other")] == [3, 1, 0]
        assert {*await new.revoked(["id-2", "id-5", "id-3"])} == {"id-2", "id-5"}
        (letter,) = await new.dead()
        assert (letter.reason, letter.queue, letter.message) == ("no good", "celery", message(1))
        consumer = await new.consume(["celery"], prefetch=10)
        (first,) = await consumer.receive(10)  # the two others wait for their eta
        assert first.message == message(6)
        await consumer.close()


async def test_it_moves_what_comes_until_interrupted(folder: Path, file: str) -> None:
    target = f"sqlite:///{folder}/to.db"
    with running_taskq("migrate", file, target, "--follow", folder=folder) as process:
        async with opened(file) as old, opened(target) as new:
            for number in range(3):
                await old.publish([message(number)])

                async def arrived(number: int = number) -> bool:
                    return await new.size("celery") == number + 1

                await eventually(arrived)
        process.send(signal.SIGINT)
        assert await asyncio.to_thread(process.wait) == 130


def test_what_cannot_work_is_refused(taskq: Taskq, file: str) -> None:
    assert taskq("migrate", file, file).code == 2
    said = taskq("migrate", file, "redis://user:s3cret@127.0.0.1:1/0")
    assert said.code == 69
    assert "s3cret" not in said.err


@pytest.fixture
def stations(file: str, tmp_path: Path, amqp_url: str) -> Iterator[list[str]]:
    with redis_server(tmp_path) as redis, rabbit_vhost(amqp_url) as amqp:
        yield [file, redis.url, amqp]


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.rabbitmq
async def test_a_kill_on_the_way_loses_nothing(folder: Path, stations: list[str]) -> None:
    """From file to Redis to RabbitMQ and back to a file; each time killed in the middle, and run again."""
    async with opened(stations[0]) as broker:
        await broker.publish([message(number) for number in range(TASKS)])
        await broker.publish([message(TASKS, eta=time() + 3600)])
    last = f"sqlite:///{folder}/last.db"
    for source, target in zip(stations, [*stations[1:], last], strict=True):
        await migrate_with_a_kill(folder, source, target)
    async with opened(last) as broker:
        taken = Counter(ids(await drain(broker, TASKS)))
    assert {f"id-{number}" for number in range(TASKS)} <= set(taken)
    assert taken.total() <= TASKS + len(stations) * BATCH


async def migrate_with_a_kill(folder: Path, source: str, target: str) -> None:
    env = {"TASKQ_LEASE_SECONDS": "1"}  # what the killed one held is back in no time
    async with opened(target) as new:
        with running_taskq("migrate", source, target, folder=folder, env=env) as process:

            async def halfway() -> bool:
                return await new.size("celery") > TASKS // 3

            await eventually(halfway, every=0)
            process.send(signal.SIGKILL)
            process.wait()
    said = await asyncio.to_thread(run_taskq, "migrate", source, target, folder=folder, env=env)
    assert said.returncode == 0, said.stderr
    assert "moved 0 tasks" not in said.stdout
    async with opened(source) as old:
        assert await old.size("celery") == 0
