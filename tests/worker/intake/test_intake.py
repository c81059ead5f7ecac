"""What is taken in, how much of it, and when it may begin."""

import asyncio
import time
from typing import Any

import pytest

from taskq import Task, TaskQ, TaskRevokedError, clock
from taskq.broker_adapters.memory.broker import HUBS
from taskq.errors import ConnectionLost
from taskq.worker.worker import Worker
from tests.faults import FOREVER, fail, heal
from tests.harness import Place, running
from tests.polling import eventually

AnyTask = Task[Any, Any, Any]


def in_queue(app: TaskQ) -> int:
    return HUBS[app.conf.broker_url].size("celery")


def held(worker: Worker) -> int:
    return len(worker._parts.custody) if worker._parts else 0


@pytest.fixture
def stamp(app: TaskQ) -> AnyTask:
    """Returns when it ran."""

    @app.task(name="proj.stamp")
    async def stamp() -> float:
        return clock.now()

    return stamp


async def test_no_more_is_taken_than_there_is_room_for(place: Place) -> None:
    app = place.app(worker_prefetch_multiplier=2)
    release = asyncio.Event()

    @app.task
    async def slow() -> None:
        await release.wait()

    results = [await slow.delay() for _ in range(10)]
    async with running(app, concurrency=3) as worker:
        await eventually(lambda: held(worker) == 6)
        assert (len(worker.running), in_queue(app)) == (3, 4)
        release.set()
        for result in results:
            await result
    assert in_queue(app) == 0


async def test_no_multiplier_means_no_such_limit(place: Place) -> None:
    app = place.app(worker_prefetch_multiplier=0)
    release = asyncio.Event()

    @app.task
    async def slow() -> None:
        await release.wait()

    results = [await slow.delay() for _ in range(20)]
    async with running(app, concurrency=1) as worker:
        await eventually(lambda: held(worker) == 20)
        release.set()
        for result in results:
            await result


async def test_plain_tasks_do_not_keep_coroutines_from_running(app: TaskQ, stamp: AnyTask) -> None:
    release = asyncio.Event()
    loop = asyncio.get_running_loop()
    running_now: list[int] = []

    @app.task
    def plain() -> int:
        running_now.append(1)
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
        running_now.pop()
        return 1

    async with running(app, concurrency=10, threads=2) as worker:
        results = [await plain.delay() for _ in range(5)]
        assert await (await stamp.delay()) > 0
        await eventually(lambda: len(running_now) == 2)
        assert len(worker.running) == 2
        release.set()
        assert [await result for result in results] == [1] * 5


@pytest.mark.autojump
@pytest.mark.parametrize("countdown", [0.5, 59.0, 61.0, 7200.0])
async def test_an_eta_is_met_in_the_worker_and_beyond_its_horizon(place: Place, countdown: float) -> None:
    app = place.app()

    @app.task
    async def stamp() -> float:
        return clock.now()

    async with running(app):
        called = clock.now()
        ran = await (await stamp.apply_async(countdown=countdown))
    assert called + countdown <= ran + 1e-6  # eta counts in microseconds
    assert ran < called + countdown + 2


async def test_a_wall_clock_that_is_set_back_makes_nothing_early(
    app: TaskQ, stamp: AnyTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    shift = [0.0]
    monkeypatch.setattr(clock, "_source", lambda: time.time() + shift[0])
    async with running(app):
        eta = clock.now() + 0.3
        result = await stamp.apply_async(countdown=0.3)
        shift[0] = -0.3
        assert await result >= eta - 1e-6


async def test_what_there_is_no_room_to_wait_for_is_parked(place: Place) -> None:
    app = place.app(worker_eta_task_limit=2)

    @app.task
    async def later(number: int) -> int:
        return number

    results = [await later.apply_async((number,), countdown=0.3) for number in range(5)]
    async with running(app) as worker:
        await eventually(lambda: held(worker) == 2)
        assert in_queue(app) == 3
        assert [await result for result in results] == [0, 1, 2, 3, 4]


async def test_earlier_ones_go_first(app: TaskQ) -> None:
    order: list[float] = []

    @app.task
    async def later(delay: float) -> None:
        order.append(delay)

    async with running(app):
        results = [await later.apply_async((delay,), countdown=delay) for delay in (0.3, 0.1, 0.2)]
        for result in results:
            await result
    assert order == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("moment", ["before", "while it waits", "parked"])
async def test_a_revoked_task_does_not_run(app: TaskQ, moment: str) -> None:
    ran: list[bool] = []

    @app.task
    async def unwanted() -> None:
        ran.append(True)

    countdown = {"before": None, "while it waits": 0.3, "parked": 61.0}[moment]
    result = await unwanted.apply_async(countdown=countdown)
    if moment == "before":
        await result.revoke()
    async with running(app) as worker:
        if moment == "while it waits":
            await eventually(lambda: held(worker) == 1)
            await result.revoke()
        if moment == "parked":
            await eventually(lambda: not held(worker) and in_queue(app) == 1)
            await result.revoke()
        with pytest.raises(TaskRevokedError, match="revoked"):
            await result.get(timeout=5)
        assert in_queue(app) == 0
    assert not ran


async def test_a_task_revoked_on_its_way_to_be_parked_does_not_wait_for_its_eta(
    frail: TaskQ, caplog: pytest.LogCaptureFixture
) -> None:
    @frail.task
    async def unwanted() -> None: ...

    fail(frail, "park", ConnectionLost("down"), FOREVER)
    async with running(frail):
        result = await unwanted.apply_async(countdown=3600)
        await eventually(lambda: "could not park tasks" in caplog.text)  # it was looked at before that
        await (await frail.open_broker()).revoke([result.id], clock.now() + 60)
        heal(frail)
        with pytest.raises(TaskRevokedError, match="revoked"):
            await result.get(timeout=10)


async def test_parking_is_insisted_on(frail: TaskQ, caplog: pytest.LogCaptureFixture) -> None:
    @frail.task
    async def later() -> None: ...

    fail(frail, "park", ConnectionLost("down"), ConnectionLost("down"))
    async with running(frail) as worker:
        await later.apply_async(countdown=3600)
        await eventually(lambda: "could not park tasks" in caplog.text and not held(worker))
    assert in_queue(frail) == 1


async def test_a_broker_lost_when_a_task_is_due_only_delays_it(frail: TaskQ) -> None:
    @frail.task
    async def later() -> str:
        return "done"

    async with running(frail) as worker:
        result = await later.apply_async(countdown=0.2)
        await eventually(lambda: held(worker) == 1)
        fail(frail, "revoked", ConnectionLost("down"), ConnectionLost("down"))
        assert await result.get(timeout=10) == "done"
