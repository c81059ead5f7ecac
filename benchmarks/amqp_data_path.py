"""CPU microseconds per message on RabbitMQ: our codec, the driver below our adapter, and aio-pika by itself.

    python -m benchmarks.amqp_data_path [amqp://guest:guest@127.0.0.1:5672] [messages]

Published many at once with confirms, mandatory and persistent; received with prefetch 500 and acked. All in one
process and one run, so that the figures compare whatever else the machine does; the best of three rounds.
"""

import asyncio
import sys
import time
import uuid
from collections.abc import Awaitable, Callable

import aio_pika
import uvloop

from taskq.seams.broker import BrokerConfig, open_broker
from taskq.wire.message import Message

BATCH, PREFETCH, ROUNDS = 1000, 500, 3


def message(queue: str) -> Message:
    task_id = str(uuid.uuid4())
    headers = {
        "lang": "py",
        "task": "bench.add",
        "id": task_id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": task_id,
        "parent_id": None,
        "argsrepr": "(2, 2)",
        "kwargsrepr": "{}",
        "origin": "gen1@bench",
        "ignore_result": False,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    body = b'[[2, 2], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
    return Message(headers, body, correlation_id=task_id, reply_to=task_id, routing_key=queue)


async def measured(work: Callable[[], Awaitable[None]], count: int) -> tuple[float, float]:
    """CPU and wall microseconds per message."""
    cpu, wall = time.process_time(), time.perf_counter()
    await work()
    return (time.process_time() - cpu) / count * 1e6, (time.perf_counter() - wall) / count * 1e6


async def through_taskq(url: str, count: int, *, codec: bool) -> list[tuple[float, float]]:
    broker = open_broker(BrokerConfig(url, options={"codec": codec}))
    await broker.open()
    queue = f"bench-{uuid.uuid4().hex}"
    messages = [message(queue) for _ in range(count)]
    await broker.publish(messages[:1])
    await broker.purge(queue)

    async def publish() -> None:
        for start in range(0, count, BATCH):
            await broker.publish(messages[start : start + BATCH])

    async def consume() -> None:
        left = count
        while left:
            batch = await consumer.receive(PREFETCH)
            await consumer.settle(ack=batch)
            left -= len(batch)

    published = await measured(publish, count)
    consumer = await broker.consume([queue], prefetch=PREFETCH)
    consumed = await measured(consume, count)
    await broker.close()
    await delete(url, queue)
    return [published, consumed]


async def through_aio_pika(url: str, count: int) -> list[tuple[float, float]]:
    connection = await aio_pika.connect(url)
    channel = await connection.channel(publisher_confirms=True)
    queue = await channel.declare_queue(f"bench-{uuid.uuid4().hex}", durable=True)
    messages = [message(queue.name) for _ in range(count)]

    async def one(source: Message) -> None:
        made = aio_pika.Message(
            source.body,
            headers=source.headers,
            content_type=source.content_type,
            content_encoding=source.content_encoding,
            delivery_mode=2,
            priority=0,
            correlation_id=source.correlation_id,
            reply_to=source.reply_to,
        )
        await channel.default_exchange.publish(made, queue.name, mandatory=True)

    async def publish() -> None:
        for start in range(0, count, BATCH):
            await asyncio.gather(*(one(source) for source in messages[start : start + BATCH]))

    arrived: asyncio.Queue[aio_pika.abc.AbstractIncomingMessage] = asyncio.Queue()

    async def consume() -> None:
        await queue.consume(arrived.put)
        for _ in range(count):
            await (await arrived.get()).ack()

    published = await measured(publish, count)
    await channel.set_qos(PREFETCH)
    consumed = await measured(consume, count)
    await connection.close()
    await delete(url, queue.name)
    return [published, consumed]


async def delete(url: str, queue: str) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.queue_delete(queue)
        await channel.exchange_delete(queue)


async def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else "amqp://guest:guest@127.0.0.1:5672"
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    ways: dict[str, Callable[[], Awaitable[list[tuple[float, float]]]]] = {
        "taskq, own codec": lambda: through_taskq(url, count, codec=True),
        "taskq, driver only": lambda: through_taskq(url, count, codec=False),
        "aio-pika alone": lambda: through_aio_pika(url, count),
    }
    rounds = [{name: await way() for name, way in ways.items()} for _ in range(ROUNDS)]
    print(
        f"{'':20} {'publish + confirm':>24} {'delivery + ack':>24}    CPU (wall) us per message, n = {count}"
    )
    for name in ways:
        cells = [min(figures[name][column] for figures in rounds) for column in (0, 1)]
        print(f"{name:20} " + " ".join(f"{cpu:14.1f} ({wall:6.1f})" for cpu, wall in cells))


if __name__ == "__main__":
    uvloop.run(main())
