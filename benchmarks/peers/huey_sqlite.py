"""Huey on SQLite: one worker thread."""

import logging

from huey import SqliteHuey

from benchmarks.peers.given import BROKER, RESULTS, VARIANT, tally

# By default Huey syncs each change to the disk. taskq syncs what is published and leaves the rest to the next sync;
# the variant never syncs, which is less than taskq does.
huey = SqliteHuey(
    "bench", filename=BROKER, results=bool(RESULTS), fsync=False if VARIANT == "nosync" else None
)
logging.getLogger("huey").setLevel(logging.WARNING)


@huey.task()
def noop(i):
    tally.hit()
    return i


def worker():
    polling = ["-d", "0.005", "-m", "0.005", "-n"]  # its default polls every 0.1 to 10 s
    return ["-m", "huey.bin.huey_consumer", "benchmarks.peers.huey_sqlite.huey", "-q", "-w", "1", *polling]


async def start():
    pass


async def stop():
    huey.close()


async def call(i):
    return noop(i)


async def call_many(n):
    return [noop(i) for i in range(n)]


async def round_trip(i):
    handle = await call(i)
    return handle.get(blocking=True, backoff=1.0, max_delay=0.001)


async def awaited(n):
    handles = await call_many(n)
    for handle in handles:
        handle.get(blocking=True, backoff=1.0, max_delay=0.001)
