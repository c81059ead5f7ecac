"""Time limits on coroutines and on threads, as callers and tasks see them."""

import asyncio
import gc
import threading
import time
from contextlib import suppress
from typing import Any

import pytest

from taskq import SoftTimeLimitExceeded, Task, TaskQ, TaskRevokedError, TimeLimitExceeded
from taskq.worker.run import limits
from taskq.worker.run.job import JobState
from tests.harness import Place, running
from tests.polling import eventually

SOON = 0.05


@pytest.fixture(params=["coroutine", "thread"])
def sleeper(request: pytest.FixtureRequest, app: TaskQ) -> Task[Any, Any, Any]:
    """Sleeps `seconds`; cleans up at the soft limit and goes on if `stay`."""

    async def coroutine(seconds: float, stay: float | None = None) -> str:
        try:
            await linger(seconds)
        except SoftTimeLimitExceeded:
            if stay is None:
                raise
            await linger(stay)
            return "cleaned up"
        return "done"

    def thread(seconds: float, stay: float | None = None) -> str:
        try:
            nap(seconds)
        except SoftTimeLimitExceeded:
            if stay is None:
                raise
            nap(stay)
            return "cleaned up"
        return "done"

    return app.task(name="proj.sleeper")(coroutine if request.param == "coroutine" else thread)


def nap(seconds: float) -> None:
    """Sleep in small pieces: an exception from outside comes between two instructions."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        threading.Event().wait(0.002)


async def linger(seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.Event().wait()


async def test_within_the_limits_nothing_happens(app: TaskQ, sleeper: Task[Any, Any, Any]) -> None:
    async with running(app):
        assert await (await sleeper.apply_async((0.0,), time_limit=10, soft_time_limit=5)) == "done"
        assert await (await sleeper.apply_async((0.0,), soft_time_limit=5)) == "done"
        assert await (await sleeper.apply_async((0.0,), time_limit=5)) == "done"


async def test_the_soft_limit_is_raised_inside(app: TaskQ, sleeper: Task[Any, Any, Any]) -> None:
    async with running(app):
        let_through = await sleeper.apply_async((30,), soft_time_limit=SOON)
        caught = await sleeper.apply_async((30, 0.0), soft_time_limit=SOON)
        with pytest.raises(SoftTimeLimitExceeded):
            await let_through
        assert await caught == "cleaned up"


async def test_the_hard_limit_ends_it(app: TaskQ, sleeper: Task[Any, Any, Any]) -> None:
    async with running(app):
        alone = await sleeper.apply_async((30,), time_limit=SOON)
        after_soft = await sleeper.apply_async((30, 30), time_limit=4 * SOON, soft_time_limit=SOON)
        for result in (alone, after_soft):
            with pytest.raises(TimeLimitExceeded):
                await result
            assert result.traceback is None
        assert alone.result.args == (SOON,)


async def test_nothing_is_left_that_asyncio_complains_of(
    app: TaskQ, sleeper: Task[Any, Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with running(app):
        results = [
            await sleeper.apply_async((30,), time_limit=SOON),
            await sleeper.apply_async((30,), soft_time_limit=SOON),
        ]
        for result in results:
            await result.get(propagate=False)
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


async def test_limits_of_the_task_and_of_the_settings(place: Place) -> None:
    app = place.app(task_time_limit=60, task_soft_time_limit=SOON)

    @app.task
    async def by_settings() -> None:
        await asyncio.sleep(30)

    @app.task(time_limit=2 * SOON, soft_time_limit=60)
    async def by_task() -> None:
        await asyncio.sleep(30)

    async with running(app):
        with pytest.raises(SoftTimeLimitExceeded):
            await (await by_settings.delay())
        with pytest.raises(TimeLimitExceeded):
            await (await by_task.delay())
        with pytest.raises(SoftTimeLimitExceeded):
            await (await by_task.apply_async(soft_time_limit=SOON))


async def test_a_coroutine_that_swallows_the_hard_limit_is_left_behind(
    app: TaskQ, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "PATIENCE", SOON)

    @app.task
    async def stubborn() -> None:
        for _ in range(3):
            with suppress(BaseException):  # as bad as it gets
                await asyncio.sleep(30)

    @app.task
    async def other() -> str:
        return "fine"

    async with running(app, concurrency=1):
        with pytest.raises(TimeLimitExceeded):
            await (await stubborn.apply_async(time_limit=SOON))
        assert await (await other.delay()) == "fine"
    assert "left behind" in caplog.text


async def test_a_thread_that_does_not_heed_the_hard_limit_is_left_behind_and_replaced(
    app: TaskQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PATIENCE", SOON)

    @app.task
    def blocked(seconds: float) -> str:
        time.sleep(seconds)
        return "fine"

    async with running(app, threads=1):
        with pytest.raises(TimeLimitExceeded):
            await (await blocked.apply_async((1.0,), time_limit=SOON))
        assert await (await blocked.delay(0.0)) == "fine"


async def test_waiting_for_a_thread_does_not_count(app: TaskQ) -> None:
    @app.task
    def brief(seconds: float) -> str:
        time.sleep(seconds)
        return "done"

    async with running(app, threads=1):
        first = await brief.delay(0.3)
        waits = await brief.apply_async((0.0,), time_limit=0.2)
        assert await first == "done"
        assert await waits == "done"


async def test_the_hard_limit_is_never_retried_by_itself_but_the_soft_one_is(app: TaskQ) -> None:
    runs: list[str] = []

    @app.task(autoretry_for=(Exception,), retry_kwargs={"countdown": 0, "max_retries": 1})
    async def slow(name: str) -> None:
        runs.append(name)
        await asyncio.sleep(30)

    async with running(app):
        with pytest.raises(TimeLimitExceeded):
            await (await slow.apply_async(("hard",), time_limit=SOON))
        with pytest.raises(SoftTimeLimitExceeded):
            await (await slow.apply_async(("soft",), soft_time_limit=SOON))
    assert runs == ["hard", "soft", "soft"]


async def test_ended_from_outside_twice_a_run_is_left_behind(app: TaskQ) -> None:
    release = asyncio.Event()

    @app.task
    async def stubborn() -> None:
        while not release.is_set():
            with suppress(asyncio.CancelledError):
                await release.wait()

    async with running(app) as worker:
        result = await stubborn.apply_async(time_limit=60)
        await eventually(lambda: worker.running)
        [job] = worker.running
        await eventually(lambda: job.state is JobState.RUNNING)
        assert job.runner is not None
        for _ in range(2):
            job.runner.cancel()
            await asyncio.sleep(0)
        with pytest.raises(TaskRevokedError):
            await result
    release.set()
