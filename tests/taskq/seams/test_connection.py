import asyncio
from typing import Any

import pytest

from taskq import OperationalError, StoreError, TaskQ
from taskq.errors import ConnectionLost
from taskq.seams.connection import Opening
from tests.faults import fail
from tests.harness import Place


@pytest.fixture
def frail() -> TaskQ:
    return Place("faulty://connection", "faulty://connection").app()


async def test_it_opens_once_for_all_who_ask(app: TaskQ) -> None:
    opened: list[int] = []

    async def count() -> None:
        opened.append(1)
        await asyncio.sleep(0)

    opening = Opening(count)
    await asyncio.gather(*(opening.wait() for _ in range(5)))
    await opening.wait()
    assert len(opened) == 1
    connection = app.shared_connection()
    brokers = await asyncio.gather(*(connection.open_broker() for _ in range(5)))
    assert len(set(map(id, brokers))) == 1


async def test_one_attempt_fails_for_all_who_wait_for_it_and_a_cancelled_one_is_not_missed() -> None:
    attempts: list[int] = []
    gate = asyncio.Event()

    async def fail_late() -> None:
        attempts.append(1)
        await gate.wait()
        raise ConnectionLost("down")

    opening = Opening(fail_late)
    callers = [asyncio.create_task(opening.wait()) for _ in range(10)]
    await asyncio.sleep(0)
    callers[0].cancel()
    gate.set()
    ends = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError, *[ConnectionLost] * 9]
    assert len(attempts) == 1


async def test_what_could_not_be_opened_is_tried_again(frail: TaskQ) -> None:
    fail(frail, "open", ConnectionLost("down"))
    async with frail:
        with pytest.raises(OperationalError, match="down"):
            await frail.open_broker()
        assert await (await frail.open_broker()).size("celery") == 0


async def test_one_of_your_own_is_open_inside_its_block_and_used_when_it_is_named(app: TaskQ) -> None:
    async with app.connection("memory://elsewhere") as elsewhere:
        await app.send_task("proj.add", (2, 2), connection=elsewhere)
        await app.send_task("proj.add", (2, 2), publisher=elsewhere.publisher)
        assert await elsewhere.broker.size("celery") == 2
        assert await elsewhere.broker.purge("celery") == 2
    assert await (await app.open_broker()).size("celery") == 0


async def test_closed_it_opens_again_at_the_next_use(app: TaskQ) -> None:
    first = app.shared_connection()
    await app.open_store()
    await app.close()
    await app.close()
    assert app.shared_connection() is not first
    await first.open()
    await first.close()


async def test_each_loop_has_its_own(app: TaskQ) -> None:
    async def theirs() -> Any:
        async with app:
            return app.shared_connection()

    here = app.shared_connection()
    there = await asyncio.to_thread(lambda: asyncio.run(theirs()))
    assert there is not here
    assert app.shared_connection() is here


async def test_a_store_that_is_down_is_told(frail: TaskQ) -> None:
    fail(frail, "load", StoreError("down"))
    async with frail:
        with pytest.raises(StoreError, match="down"):
            await frail.AsyncResult("x").refresh()
