"""The least broker and store (`tests/contract/folder.py`): the seams do the rest, and a worker runs on them."""

import asyncio
import inspect
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from taskq import StoreError, Task, TaskQ, chord
from taskq.seams.store import StoreConfig, TaskResult, open_store
from taskq.states import STARTED, SUCCESS
from tests.contract import folder
from tests.harness import running
from tests.polling import eventually


def own_methods(*classes: type) -> list[str]:
    return [
        name
        for kind in classes
        for name, _ in inspect.getmembers(kind, inspect.isfunction)
        if name in vars(kind) and not name.startswith("_")
    ]


def test_a_broker_is_seven_methods_and_a_store_three() -> None:
    assert sorted(own_methods(folder.FolderBroker, folder.FolderConsumer)) == [
        *("close", "close", "consume", "publish", "purge", "receive", "settle", "size"),
    ]
    assert sorted(own_methods(folder.FolderStore)) == ["forget", "load", "save"]


async def test_a_worker_runs_on_them(tmp_path: Path) -> None:
    url = f"folder://{tmp_path}"
    async with TaskQ("least", broker=url, backend=url) as app:

        @app.task(bind=True, max_retries=3)
        async def add(self: Task[Any, Any, Any], x: int, y: int) -> int:
            if self.request.retries < 1:
                raise self.retry(countdown=0.05)
            return x + y

        @app.task
        async def fail() -> None:
            raise ValueError("no")

        async with running(app):
            assert await (await add.delay(2, 3)).get(timeout=10) == 5
            soon = await add.apply_async((1, 1), countdown=0.2)
            assert await soon.get(timeout=10) == 2
            with pytest.raises(ValueError, match="no"):
                await (await fail.delay()).get(timeout=10)
            late = await add.apply_async((1, 1), countdown=3600)
            await late.revoke()
            group = await app.control.ping(timeout=0.1)
            assert not group
        with pytest.raises(StoreError, match="keeps"):
            await chord([add.s(1, 1)], add.s(1)).delay()


async def test_what_is_parked_comes_again_when_it_is_due(tmp_path: Path) -> None:
    app = TaskQ("least", broker=f"folder://{tmp_path}", backend="disabled://")
    async with app:
        broker = await app.open_broker()
        await app.send_task("any", ())
        consumer = await broker.consume(["celery"], prefetch=1)
        [delivery] = await consumer.receive(1)
        due = time.time() + 0.3
        await consumer.park([(delivery, due)])
        async with asyncio.timeout(5):
            [again] = await consumer.receive(1)
        assert time.time() >= due
        assert (again.redelivered, again.message) == (True, delivery.message)


async def test_a_store_that_only_saves_and_loads_can_be_watched_and_keeps_groups(tmp_path: Path) -> None:
    store = open_store(StoreConfig(f"folder://{tmp_path}"))
    seen: list[str] = []

    async def watch() -> None:
        async with aclosing(store.watch("t")) as states:
            async for state in states:
                seen.append(state.state)  # noqa: PERF401 - one by one, as they come

    watching = asyncio.create_task(watch())
    await store.save([TaskResult("t", STARTED)])
    await eventually(lambda: seen)
    await store.save([TaskResult("t", SUCCESS, 1)])
    async with asyncio.timeout(5):
        await watching
    assert seen == [STARTED, SUCCESS]
    await store.save_group("g", [["g", None], []])
    assert await store.load_group("g") == [["g", None], []]
    await store.forget_group("g")
    assert await store.load_group("g") is None
