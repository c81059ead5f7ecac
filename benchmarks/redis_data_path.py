"""What a command to Redis costs through our session, and through redis-py's own ways: why taskq has the former.

    python benchmarks/redis_data_path.py [redis://127.0.0.1:6379/9] [20000]

Three ways to the same server, all with hiredis and RESP3: our `Session`; the same redis-py connection it would take
over, by its `send_packed_command` and `read_response`; redis-py's client (`execute_command`, a pipeline). Each first
one command at a time (GET of a 500 byte value), then 100 commands at once, as concurrent callers need them: with a
client of redis-py they would wait for each other, or each hold a connection. Interleaved, median of three.

Measured with redis-py 8.1, hiredis 3.5, Redis 7.0 and Python 3.11 on two shared cores, CPU (wall) microseconds:

                            one at a time        100 at once
    taskq's session         16.2 (  43.3)       1.1 (   1.7)
    redis-py's connection   41.3 ( 111.1)       6.7 (  14.7)
    redis-py's client       56.1 ( 131.0)       9.4 (  19.8)
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import Connection, parse_url

from taskq.broker_adapters.redis.url import parse_target

ROUNDS = 3
BATCH = 100
KEY = "taskq-bench"

Result = tuple[float, float]


async def measured(action: Callable[[], Awaitable[None]], count: int) -> Result:
    """Microseconds of this process's CPU, and of the clock, per command."""
    cpu, wall = time.process_time(), time.perf_counter()
    await action()
    return (time.process_time() - cpu) / count * 1e6, (time.perf_counter() - wall) / count * 1e6


async def through_session(url: str, count: int) -> list[Result]:
    session = await parse_target(url, {}, None, timeout=4.0, name="bench").connect()

    async def alone() -> None:
        for _ in range(count):
            await session.call("GET", KEY)

    async def together() -> None:
        commands = [("GET", KEY)] * BATCH
        for _ in range(count // BATCH):
            for future in session.send(*commands):
                session.checked(await future)

    results = [await measured(alone, count), await measured(together, count)]
    session.abort("done")
    return results


async def through_connection(url: str, count: int) -> list[Result]:
    options: dict[str, Any] = {**parse_url(url)}
    connection = Connection(**options, protocol=3)
    await connection.connect()

    async def alone() -> None:
        for _ in range(count):
            await connection.send_packed_command(connection.pack_command("GET", KEY))
            await connection.read_response()

    async def together() -> None:
        commands = [("GET", KEY)] * BATCH
        for _ in range(count // BATCH):
            await connection.send_packed_command(connection.pack_commands(commands))
            for _ in range(BATCH):
                await connection.read_response()

    results = [await measured(alone, count), await measured(together, count)]
    await connection.disconnect()
    return results


async def through_client(url: str, count: int) -> list[Result]:
    client = Redis.from_url(url, protocol=3)

    async def alone() -> None:
        for _ in range(count):
            await client.get(KEY)

    async def together() -> None:
        for _ in range(count // BATCH):
            pipeline = client.pipeline(transaction=False)
            for _ in range(BATCH):
                pipeline.get(KEY)
            await pipeline.execute()

    results = [await measured(alone, count), await measured(together, count)]
    await client.aclose()
    return results


async def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else "redis://127.0.0.1:6379/9"
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
    async with Redis.from_url(url) as client:
        await client.set(KEY, b"x" * 500, ex=600)
    ways = {
        "taskq's session": through_session,
        "redis-py's connection": through_connection,
        "redis-py's client": through_client,
    }
    rounds = [{name: await way(url, count) for name, way in ways.items()} for _ in range(ROUNDS)]
    print(f"{'':22} {'one at a time':>18} {f'{BATCH} at once':>18}    CPU (wall) us per command, n = {count}")
    for name in ways:
        cells = [
            "{:8.1f} ({:6.1f})".format(*(median(r[name][part][kind] for r in rounds) for kind in (0, 1)))
            for part in (0, 1)
        ]
        print(f"{name:22} {cells[0]:>18} {cells[1]:>18}")


if __name__ == "__main__":
    asyncio.run(main())
