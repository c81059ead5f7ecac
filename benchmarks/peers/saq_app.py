"""SAQ on Redis."""

import asyncio

from saq import Queue

from benchmarks.peers.given import BROKER, CONCURRENCY, IN_FLIGHT, RESULTS, tally

queue = Queue.from_url(BROKER)
TTL = 86400 if RESULTS else -1


async def noop(_, *, i):
    tally.hit()
    return i


settings = {"queue": queue, "functions": [noop], "concurrency": CONCURRENCY}


def worker():
    with_uvloop = "import uvloop; uvloop.install(); from saq.__main__ import main; main()"
    return ["-c", with_uvloop, "benchmarks.peers.saq_app.settings"]


async def start():
    await queue.connect()


async def stop():
    await queue.disconnect()


async def call(i):
    return await queue.enqueue("noop", i=i, ttl=TTL)


async def call_many(n):
    handles = []
    for begin in range(0, n, IN_FLIGHT):
        calls = (queue.enqueue("noop", i=i, ttl=TTL) for i in range(begin, min(n, begin + IN_FLIGHT)))
        handles += await asyncio.gather(*calls)
    return handles


async def round_trip(i):
    return await queue.apply("noop", i=i, ttl=TTL, poll_interval=0.001)


async def awaited(n):
    await queue.map("noop", [{"i": i} for i in range(n)], ttl=TTL, poll_interval=0.1)
