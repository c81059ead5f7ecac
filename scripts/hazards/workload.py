"""Trials of messages and tasks: those that cannot be run, that are for later, that do not end, that are many."""

import asyncio
import os
import time
from functools import partial
from statistics import median

from scripts.hazards.bench import Bench
from scripts.hazards.clients import Client
from scripts.hazards.poison import FIRST_GOOD, RAW, bare, kinds
from scripts.hazards.sides import LEASE, Keeper, Log, megabytes, until, worker
from taskq.wire.message import Message

#: Seconds that a good task behind a bad message may take, before that message is removed.
PATIENCE = 10.0


async def poison(bench: Bench) -> str:
    """e: messages no worker can run, one kind at a time, straight into the queue, and a good task after each."""
    log, client = Log(bench.folder), bench.client()
    carrier = bench.carrier()
    messages = kinds()
    entries: list[bytes] = []
    if bench.server is not None and bench.server.takes_bytes:
        await client.send(-1)
        entries = await bench.server.entries()
    else:
        messages += bare(RAW)
    waits: list[float | None] = []
    with Keeper(bench.system, bench.url, bench.folder) as kept:
        await until(lambda: kept.ready, 30)
        every: list[Message | bytes] = [*messages, *entries]
        for number, bad in enumerate(every, FIRST_GOOD):
            if isinstance(bad, bytes):
                await bench.place.put(bad)
            else:
                await carrier.publish(bad)
            sent = time.time()
            await client.send(number)
            done = await until(partial(kept.until_finished, log, [number]), PATIENCE)
            waits.append(None if done is None else log.first("start", number) - sent)
            if done is None:
                await kept.anew(carrier.clear)
        dead = await carrier.dead()
        ran = sum(times for number, times in log.count("end").items() if number < FIRST_GOOD)
    await client.close()
    await carrier.close()
    good = [wait for wait in waits if wait is not None]
    return (
        f"{len(waits)} kinds: {len(good)} good tasks done, {sum(wait <= 1 for wait in good)} within 1 s (p50"
        f" {median(good) * 1000:.0f} ms, the last {max(good):.2f} s); worker ended {kept.ends} times;"
        f" {dead} dead letters, bad ones run {ran} times"
    )


async def delayed(bench: Bench) -> str:
    """f: 10,000 tasks due in 40 s, eight times the visibility timeout or lease."""
    log, client = Log(bench.folder), bench.client()
    numbers = range(10_000)
    with worker(bench.system, bench.url, bench.folder) as running:
        await until(lambda: running.ready, 30)
        before, eta = megabytes(running.process.pid), time.time() + 40
        await client.send_all(numbers, eta)
        sent = eta - time.time()
        await until(lambda: time.time() > eta - 1, 60)
        grown = megabytes(running.process.pid) - before
        await until(lambda: log.finished(numbers), 120)
    await client.close()
    late = sorted(event.at - eta for event in log.events() if event.kind == "start")
    early = sum(one < 0 for one in late)
    return (
        f"{log.verdict(numbers)}; {early} early, p50 {late[len(late) // 2]:.1f} s late, p99"
        f" {late[len(late) * 99 // 100]:.1f} s; memory +{grown:.0f} MB; all sent {sent:.0f} s before"
    )


async def blocked(bench: Bench) -> str:
    """g1: a task blocks its worker's event loop for four leases (RabbitMQ: heartbeats); 100 good ones come meanwhile."""
    log, client = Log(bench.folder), bench.client()
    seconds = 4 * (bench.server.silence if bench.server else LEASE)
    good = range(1, 101)
    with worker(bench.system, bench.url, bench.folder, "prefork") as first:
        await until(lambda: first.ready, 30)
        task_id = await client.call("jobs.blocking", 0, seconds)
        await until(partial(log.reached, 1), 30)
        began = time.time()
        with worker(bench.system, bench.url, bench.folder, "prefork") as second:
            await until(lambda: second.ready, 30)
            for number in good:
                await client.send(number, 0.05)
            took = await until(lambda: log.finished(good), seconds + 30)
            await until(lambda: time.time() > began + seconds + LEASE, seconds + 30)
            starts, said = log.count("start")[0], await outcome(client, task_id)
            alive = first.alive and second.alive
    await client.close()
    shown = f"after {took:.1f} s" if took is not None else "not"
    return (
        f"{seconds:.0f} s: started {starts} times, result {said}; the good ones all done {shown}, started twice"
        f" {sum(times > 1 for number, times in log.count('start').items() if number)}; both alive: {alive}"
    )


async def endless(bench: Bench, name: str) -> str:
    log, client = Log(bench.folder), bench.client()
    good = range(1, 101)
    with Keeper(bench.system, bench.url, bench.folder, "prefork") as kept:
        await until(lambda: kept.ready, 30)
        task_id = await client.call(name, 0)
        await until(partial(log.reached, 1), 30)
        for number in good:
            await client.send(number, 0.1)
        done = await until(partial(kept.until_finished, log, good), 60)
        said = await outcome(client, task_id, 60, kept)
        ended = time.time() - log.first("start", 0)
        starts, left = log.count("start")[0], [end - log.first("start", 0) for end in kept.ended_at]
    await client.close()
    shown = f"after {done:.1f} s" if done is not None else "not"
    return (
        f"result {said} after {ended:.1f} s, started {starts} times; worker ended {kept.ends} times"
        f"{f', the first time after {left[0]:.1f} s' if left else ''}; the good ones all done {shown}"
    )


async def waits_for_ever(bench: Bench) -> str:
    """g2: a task with a hard limit of 3 s that waits for ever, and 100 good ones beside it."""
    return await endless(bench, "jobs.waiting")


async def spins_for_ever(bench: Bench) -> str:
    """g3: a task with a hard limit of 3 s that computes for ever on the event loop, and 100 good ones beside it."""
    return await endless(bench, "jobs.spinning")


async def outcome(client: Client, task_id: str, within: float = 10, kept: Keeper | None = None) -> str:
    """A result, or the error's name; `kept` is kept alive meanwhile."""
    asked = asyncio.ensure_future(client.result(task_id, within))
    while not asked.done():
        if kept is not None:
            kept.look()
        await asyncio.wait([asked], timeout=0.1)
    error = asked.exception()
    return "stored" if error is None else type(error).__name__


async def many(bench: Bench) -> str:
    """i: 100,000 tasks, all results awaited, 500 at a time; memory from the 20,000th to the last."""
    client = bench.client()
    with worker(bench.system, bench.url, bench.folder) as running:
        await until(lambda: running.ready, 30)
        pids = {"worker": running.process.pid, "client": os.getpid()}
        sizes: list[dict[str, float]] = []
        for number in range(200):
            await client.round("jobs.noop", 500)
            if number in {39, 199}:
                sizes.append({who: megabytes(pid) for who, pid in pids.items()})
    await client.close()
    return "; ".join(
        f"{who} {sizes[0][who]:.1f} MB, then {sizes[1][who] - sizes[0][who]:+.1f} MB"
        f" ({(sizes[1][who] - sizes[0][who]) * 2**20 / 80_000:.0f} bytes a task)"
        for who in pids
    )
