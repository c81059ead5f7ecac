"""Which runs begin when, and the blame for workers that died."""

import asyncio
from typing import Any

import pytest

from taskq import Task, TaskQ
from taskq.broker_adapters.memory.broker import HUBS
from taskq.broker_adapters.memory.line import Waiter
from taskq.errors import ConnectionLost
from taskq.wire.envelope import dumps
from taskq.worker.run.runner import Runner
from tests.faults import fail
from tests.harness import running
from tests.polling import eventually

AnyTask = Task[Any, Any, Any]


def accuse(app: TaskQ, task: AnyTask, number: int, deaths: int) -> Waiter:
    """A message that saw workers die."""
    [message], *_ = app.prepare(task.signature((number,)))
    entry = Waiter(-100 + number, "celery", 0, dumps(message, delivery_tag=""))
    entry.deaths = deaths
    HUBS[app.conf.broker_url].requeue([entry])
    return entry


async def test_never_more_than_the_concurrency_and_in_order(app: TaskQ) -> None:
    order: list[int] = []
    together: set[int] = set()
    most = 0

    @app.task
    async def act(number: int) -> None:
        nonlocal most
        order.append(number)
        together.add(number)
        most = max(most, len(together))
        await asyncio.sleep(0)
        together.remove(number)

    results = [await act.delay(number) for number in range(20)]
    async with running(app, concurrency=3):
        for result in results:
            await result
    assert order == list(range(20))
    assert most == 3


async def test_those_blamed_already_run_one_at_a_time(app: TaskQ) -> None:
    together: set[int] = set()
    most = 0

    @app.task
    async def act(number: int) -> int:
        nonlocal most
        together.add(number)
        most = max(most, len(together))
        for _ in range(5):
            await asyncio.sleep(0)
        together.remove(number)
        return number

    for number in range(4):
        accuse(app, act, number, deaths=2)
    async with running(app):
        await eventually(lambda: HUBS[app.conf.broker_url].size("celery") == 0)
        await (await act.delay(9))
        await eventually(lambda: not worker_held(app))
    assert most <= 2  # one of them, and the one that is not


def worker_held(app: TaskQ) -> bool:
    return any(consumer.held for consumer in HUBS[app.conf.broker_url]._consumers)


@pytest.mark.parametrize("end", ["done", "cut off"])
async def test_a_run_in_good_order_leaves_no_blame(app: TaskQ, end: str) -> None:
    release = asyncio.Event()

    @app.task
    async def act(number: int) -> None:
        await release.wait()

    entry = accuse(app, act, 1, deaths=1)
    async with running(app, grace=0) as worker:
        await eventually(lambda: worker.running)
        await eventually(lambda: entry.deaths == 2)
        if end == "done":
            release.set()
            await eventually(lambda: not worker.running)
    assert HUBS[app.conf.broker_url].size("celery") == (0 if end == "done" else 1)
    assert entry.deaths == (2 if end == "done" else 1)


async def test_blame_is_insisted_on(frail: TaskQ) -> None:
    @frail.task
    async def act(number: int) -> int:
        return number

    accuse(frail, act, 1, deaths=1)
    fail(frail, "strike", ConnectionLost("down"), ConnectionLost("down"))
    async with running(frail):
        await eventually(lambda: not worker_held(frail) and HUBS[frail.conf.broker_url].size("celery") == 0)


async def test_an_error_of_ours_at_the_end_is_a_failure_and_a_dead_letter(
    app: TaskQ, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task
    async def act(number: int) -> int:
        return number

    async def broken(*_: Any) -> None:
        raise ZeroDivisionError("a bug")

    async with running(app) as worker:
        assert worker._parts is not None
        runner: Runner = worker._parts.runner
        monkeypatch.setattr(runner._executor, "execute", broken)
        result = await act.delay(1)
        with pytest.raises(ZeroDivisionError):
            await result
    assert "could not handle the end of" in caplog.text
    [letter] = await (await app.open_broker()).dead()
    assert letter.reason == "its end could not be handled: ZeroDivisionError('a bug')"
