"""Runs in the interpreter of the system under test: `side.py worker MODULE` or `side.py client MODULE`.

A peer's module has these: `worker()` gives the interpreter's arguments of its worker; `start` and `stop` connect
and close; `call(i)` enqueues one task, `call_many(n)` many in the cheapest way it has, `round_trip(i)` enqueues one
and waits for its result, `awaited(n)` enqueues many and waits for all of their results.
"""

import asyncio
import importlib
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

Figures = dict[str, Any]


async def one_by_one(peer: Any, n: int) -> None:
    for i in range(n):
        await peer.call(i)


async def at_once(peer: Any, n: int) -> None:
    await peer.call_many(n)


async def concurrently(peer: Any, n: int) -> None:
    """For a system whose `call_many` is more than concurrent calls."""
    await peer.call_concurrently(n)


async def end_to_end(peer: Any, n: int) -> None:
    await peer.awaited(n)


async def round_trips(peer: Any, n: int) -> list[float]:
    seconds = []
    for i in range(n):
        began = time.perf_counter()
        await peer.round_trip(i)
        seconds.append(time.perf_counter() - began)
    return sorted(seconds)


async def inside(peer: Any, n: int) -> Figures:
    """Client and worker in one process: what a broker of the process's own memory is for."""
    figures: Figures = await peer.inside(n)
    return figures


VERBS: dict[str, Callable[[Any, int], Awaitable[Any]]] = {
    verb.__name__: verb for verb in (one_by_one, at_once, concurrently, end_to_end, round_trips, inside)
}


async def measured(peer: Any, verb: str, n: int) -> Figures:
    cpu, wall = time.process_time(), time.perf_counter()
    value = await VERBS[verb](peer, n)
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "value": value}


async def serve(peer: Any) -> None:
    """Do what the lines on standard input ask for, and answer each with its figures."""
    await peer.start()
    print("{}", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        print(json.dumps(await measured(peer, order["verb"], order["n"])), flush=True)
    await peer.stop()


def run(peer: Any) -> None:
    try:
        import uvloop  # noqa: PLC0415 - every asynchronous client gets it, where it is installed
    except ImportError:
        asyncio.run(serve(peer))
    else:
        uvloop.run(serve(peer))


if __name__ == "__main__":
    role, name = sys.argv[1:]
    module = importlib.import_module(f"benchmarks.peers.{name}")
    if role == "client":
        run(module)
    else:
        os.execv(sys.executable, [sys.executable, *module.worker()])
