"""taskq with a task that computes: a plain function, as people write it, about 2 ms of Python."""

from functools import partial

from benchmarks.peers import ours
from benchmarks.peers.given import tally
from benchmarks.spin import spin
from taskq.results.handles import GroupResult

app, start, stop = ours.app, ours.start, ours.stop


@app.task
def compute(i: int) -> int:
    spin()
    tally.hit()
    return i


call = compute.delay
worker = partial(ours.worker, "benchmarks.peers.ours_spin:app")


async def call_many(n: int) -> list[GroupResult[int]]:
    return await ours.call_many(n, compute)
