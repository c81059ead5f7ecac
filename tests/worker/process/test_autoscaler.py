"""A running worker whose number of slots follows its load."""

import asyncio
import time
from typing import Any

import pytest

from taskq import TaskQ
from taskq.errors import OperationalError
from taskq.worker.worker import Worker
from tests.faults import FOREVER, fail
from tests.harness import Place, running
from tests.polling import eventually


def slots(worker: Worker) -> int:
    assert worker._parts is not None
    return worker._parts.runner.concurrency


def waiting_task(app: TaskQ) -> tuple[Any, asyncio.Event]:
    release = asyncio.Event()

    @app.task(name="proj.wait")
    async def wait() -> None:
        await release.wait()

    return wait, release


@pytest.mark.autojump
async def test_slots_grow_while_tasks_wait_and_go_when_nobody_needs_them(place: Place) -> None:
    app = place.app(worker_autoscale="12,3")
    wait, release = waiting_task(app)
    async with running(app) as worker:
        assert slots(worker) == 3
        results = [await wait.delay() for _ in range(20)]
        await eventually(lambda: len(worker.running) == 12)
        assert slots(worker) == 12
        release.set()
        for result in results:
            await result
        await eventually(lambda: slots(worker) == 3, within=120)


@pytest.mark.autojump
async def test_they_grow_without_prefetching_too(place: Place) -> None:
    app = place.app(worker_autoscale="12,3", worker_prefetch_multiplier=1)
    wait, release = waiting_task(app)
    results = [await wait.delay() for _ in range(20)]
    async with running(app) as worker:
        await eventually(lambda: len(worker.running) == 12)
        release.set()
        for result in results:
            await result


async def test_a_late_loop_gets_fewer(place: Place) -> None:
    app = place.app(worker_autoscale="8,2")
    wait, release = waiting_task(app)

    @app.task(name="proj.block")
    async def block() -> None:
        while not stop.is_set():
            time.sleep(0.15)  # noqa: ASYNC251 - what it is about
            await asyncio.sleep(0)

    stop = asyncio.Event()
    async with running(app) as worker:
        results = [await wait.delay() for _ in range(8)]
        await eventually(lambda: slots(worker) == 8)
        results.append(await block.delay())
        release.set()
        await eventually(lambda: slots(worker) == 2)
        stop.set()
        for result in results:
            await result


async def test_auto_is_a_range_of_its_own(place: Place) -> None:
    async with running(place.app(worker_concurrency="auto")) as worker:
        assert slots(worker) == 10
    async with running(place.app(worker_concurrency="auto"), concurrency=7) as worker:
        assert (slots(worker), worker.bounds) == (7, None)


async def test_growing_wakes_an_intake_without_room(place: Place) -> None:
    app = place.app(worker_prefetch_multiplier=1)
    wait, release = waiting_task(app)
    results = [await wait.delay() for _ in range(6)]
    async with running(app, concurrency=1) as worker:
        await eventually(lambda: len(worker.running) == 1)
        assert worker._parts is not None
        await worker._parts.autoscaler.resize(6)
        await eventually(lambda: len(worker.running) == 6)
        release.set()
        for result in results:
            await result


async def test_a_broker_that_does_not_hear_of_it_stops_nothing(frail: TaskQ) -> None:
    frail.conf.worker_autoscale = (8, 1)
    wait, release = waiting_task(frail)
    fail(frail, "resize", OperationalError("away"), FOREVER)
    async with running(frail) as worker:
        results = [await wait.delay() for _ in range(8)]
        await eventually(lambda: slots(worker) == 8)
        release.set()
        for result in results:
            await result
