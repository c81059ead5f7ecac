"""Trials of processes, networks and brokers: each does one bad thing, and says in figures what came of it."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial

from scripts.hazards.bench import Bench, Stream, finish, recovered
from scripts.hazards.sides import LEASE, Log, until, worker
from tests.proxy import Proxy, proxy


async def kills(bench: Bench) -> str:
    """a: kill -9 three times over 2,000 tasks of 5 ms."""
    log, client = Log(bench.folder), bench.client()
    numbers = range(2000)
    for number in numbers:
        await client.send(number, 0.005)
    for kill in range(1, 4):
        with worker(bench.system, bench.url, bench.folder):
            await until(partial(log.reached, kill * 500), 60)
    dead = time.time()
    with worker(bench.system, bench.url, bench.folder):
        await until(lambda: log.finished(numbers), 60)
    await client.close()
    again = [event.at for event in log.events() if event.kind == "end" and event.at > dead]
    return f"{log.verdict(numbers)}; the last ended {max(again) - dead:.1f} s after the last kill"


async def terms(bench: Bench) -> str:
    """b: SIGTERM in the middle of 600 tasks of 100 ms, then another worker."""
    log, client = Log(bench.folder), bench.client()
    numbers = range(600)
    for number in numbers:
        await client.send(number, 0.1)
    with worker(bench.system, bench.url, bench.folder) as first:
        await until(lambda: len(log.count("start")) >= 300, 60)
        told = time.monotonic()
        first.send(signal.SIGTERM)
        await until(lambda: not first.alive, 60)
        took, code = time.monotonic() - told, first.process.poll()
    cut = len(log.count("start")) - len(log.count("end"))
    with worker(bench.system, bench.url, bench.folder):
        await until(lambda: log.finished(numbers), 60)
    await client.close()
    return f"exit code {code} after {took:.1f} s, {cut} tasks cut; {log.verdict(numbers)}"


async def restarts(bench: Bench) -> str:
    """c: the broker is killed and comes back after 2 s while a client sends and a worker works; appendfsync always."""
    log, client = Log(bench.folder), bench.client()
    with worker(bench.system, bench.url, bench.folder) as running:
        await until(lambda: running.ready, 30)
        stream = Stream(client)
        await asyncio.sleep(2)
        bench.place.kill()
        await asyncio.sleep(2)
        await asyncio.to_thread(bench.place.start)
        back = time.time()
        recovery = await recovered(log, back)
        await asyncio.sleep(2)
        said = await stream.end()
        end = await finish(bench, log, stream.confirmed, running, 30)
    await client.close()
    return f"{log.verdict(stream.confirmed)}; {said}; {recovery}; {end}"


async def broken_network(bench: Bench, breakage: Callable[[Proxy], Awaitable[None]]) -> str:
    log, client = Log(bench.folder), bench.client()
    async with proxy(bench.place.port) as network:
        with worker(bench.system, bench.place.behind(network.port), bench.folder) as running:
            await until(lambda: running.ready, 30)
            stream = Stream(client)
            await asyncio.sleep(2)
            await breakage(network)
            recovery = await recovered(log, time.time())
            await asyncio.sleep(1)
            await stream.end()
            end = await finish(bench, log, stream.confirmed, running, 40)
    await client.close()
    return f"{recovery}; {log.verdict(stream.confirmed)}; {end}"


async def resets(bench: Bench) -> str:
    """d: the worker's connections are reset five times, a second apart."""

    async def cut(network: Proxy) -> None:
        for _ in range(5):
            network.cut()
            await asyncio.sleep(1)

    return await broken_network(bench, cut)


async def black_hole(bench: Bench) -> str:
    """d: for 15 s nothing passes between the worker and the broker, and nobody is told."""

    async def swallow(network: Proxy) -> None:
        network.flow.clear()
        await asyncio.sleep(15)
        network.flow.set()

    return await broken_network(bench, swallow)


async def latency(bench: Bench) -> str:
    """d: 100 ms more for each round trip; 500 tasks of 50 ms."""
    rates = []
    numbers = range(500)
    for delay in (0.0, 0.05):
        log, client = Log(bench.folder), bench.client()
        log.path.unlink(missing_ok=True)
        for number in numbers:
            await client.send(number, 0.05)
        async with proxy(bench.place.port) as network:
            network.delay = delay
            with worker(bench.system, bench.place.behind(network.port), bench.folder):
                await until(partial(log.finished, numbers), 90)
        times = [event.at for event in log.events()]
        rates.append(len(numbers) / (max(times) - min(times)))
        await client.close()
    return f"{rates[0]:.0f} tasks/s without, {rates[1]:.0f} with ({rates[1] / rates[0]:.0%})"


async def paused(bench: Bench) -> str:
    """h: SIGSTOP of a worker that holds 20 tasks of 2 s, for three leases (RabbitMQ: 50 s); another worker is there."""
    log, client = Log(bench.folder), bench.client()
    numbers = range(20)
    pause = bench.server.pause if bench.server else 3 * LEASE
    with worker(bench.system, bench.url, bench.folder) as first:
        await until(lambda: first.ready, 30)
        ids = [await client.send(number, 2.0) for number in numbers]
        await until(lambda: len(log.count("start")) == len(numbers), 30)
        first.send(signal.SIGSTOP)
        stopped = time.time()
        with worker(bench.system, bench.url, bench.folder) as second:
            await until(lambda: time.time() > stopped + pause, 60)
            first.send(signal.SIGCONT)
            await until(lambda: log.finished(numbers), 60)
            await asyncio.sleep(3)
            stored = [await client.result(task_id) for task_id in ids]
            alive = first.alive and second.alive
    await client.close()
    taken = [e.at - stopped for e in log.events() if e.kind == "start" and e.pid == second.process.pid]
    stale = sum(pid == first.process.pid for pid in stored) if taken else 0
    span = f"{min(taken):.1f} to {max(taken):.1f} s" if taken else "never"
    return f"{len(taken)} tasks taken over after {span}; {stale} results of the paused worker stored; {log.verdict(numbers)}; both alive: {alive}"


async def full(bench: Bench) -> str:
    """j: the broker takes nothing more (memory) for 10 s while a worker holds 20 tasks of 2 s and 40 wait."""
    log, client = Log(bench.folder), bench.client()
    numbers = range(60)
    with worker(bench.system, bench.url, bench.folder) as running:
        await until(lambda: running.ready, 30)
        ids = [await client.send(number, 2.0) for number in numbers]
        await until(partial(log.reached, 20), 30)
        await asyncio.to_thread(bench.place.fill)
        began = time.monotonic()
        try:
            await asyncio.wait_for(client.send(1000), 30)
            said = "was accepted"
        except Exception as error:  # noqa: BLE001 - each system has its own errors
            said = f"{type(error).__name__} after {time.monotonic() - began:.1f} s"
        await asyncio.sleep(max(0.0, began + 10 - time.monotonic()))
        during = len(log.count("end"))
        await asyncio.to_thread(bench.place.relieve)
        end = await finish(bench, log, numbers, running, 40)
        found = await asyncio.gather(*map(client.result, ids), return_exceptions=True)
        kept = sum(not isinstance(one, BaseException) for one in found)
    await client.close()
    return (
        f"client: {said}; {during} finished meanwhile, {kept} results stored in the end;"
        f" {log.verdict(numbers)}; {end}"
    )
