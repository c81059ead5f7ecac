"""Effects when broker and store have their bad days: done in order, done until they work, done once."""

from collections.abc import Sequence
from typing import Any

import pytest

from taskq import GroupResult, Task, TaskQ
from taskq.broker_adapters.memory.broker import HUBS, MemoryBroker
from taskq.errors import (
    BrokerFull,
    ConnectionLost,
    OperationalError,
    PublishErrors,
    StoreError,
    Unroutable,
)
from taskq.seams.store import TaskResult
from taskq.wire.message import Message
from tests.faults import fail
from tests.harness import running
from tests.polling import eventually

AnyTask = Task[Any, Any, Any]
DOWN = [ConnectionLost("down"), OperationalError("still down")]


@pytest.fixture
def add(frail: TaskQ) -> AnyTask:
    @frail.task(name="proj.add")
    async def add(x: int, y: int) -> int:
        return x + y

    return add


@pytest.mark.parametrize(
    ("verb", "errors"),
    [("save", [StoreError("down"), StoreError("down")]), ("settle", DOWN), ("revoked", DOWN)],
)
async def test_what_fails_is_done_until_it_works(
    frail: TaskQ, add: AnyTask, caplog: pytest.LogCaptureFixture, verb: str, errors: list[Exception]
) -> None:
    fail(frail, verb, *errors)
    async with running(frail):
        assert await (await add.delay(2, 2)) == 4
        await eventually(lambda: size(frail) == 0)
    assert caplog.text.count("trying again") == 2
    assert await (await frail.open_broker()).size("celery") == 0


def size(app: TaskQ) -> int:
    return HUBS[app.conf.broker_url].size("celery")


async def test_follow_ups_are_published_until_it_works_and_only_once(frail: TaskQ, add: AnyTask) -> None:
    # The caller's own, then a try that sends two of three, two that send none, and one that sends the rest.
    fail(frail, "publish", None, PublishErrors({1: BrokerFull("full")}), *DOWN)
    async with running(frail):
        result = await add.apply_async((2, 2), link=[add.s(1), add.s(2), add.s(3)])
        await result
        [children] = (await result.refresh()).children
        assert await children.get() == [5, 6, 7]


async def test_a_follow_up_without_a_queue_is_kept_and_a_failure(frail: TaskQ, add: AnyTask) -> None:
    fail(frail, "publish", None, PublishErrors({0: Unroutable("no queue takes it")}))
    async with running(frail):
        result = await add.apply_async((2, 2), link=[add.s(1), add.s(2)])
        assert await result == 4
        [children] = (await result.refresh()).children
        assert isinstance(children, GroupResult)
        lost, kept = children.results
        with pytest.raises(Unroutable):
            await lost
        assert await kept == 6
    [letter] = await (await frail.open_broker()).dead()
    assert letter.reason == "no queue takes it"


async def test_a_failing_burial_sends_nothing_again(
    frail: TaskQ, add: AnyTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked of the calls: memory also knows a message by its name and would not take it twice."""
    fail(frail, "publish", None, PublishErrors({0: Unroutable("no queue"), 2: BrokerFull("full")}))
    fail(frail, "bury", *DOWN)
    offered: list[str] = []
    publish = MemoryBroker.publish

    async def noted(self: MemoryBroker, messages: Sequence[Message]) -> None:
        offered.extend(message.correlation_id for message in messages)
        await publish(self, messages)

    monkeypatch.setattr(MemoryBroker, "publish", noted)
    async with running(frail):
        result = await add.apply_async((2, 2), link=[add.s(1), add.s(2), add.s(3)])
        assert await result == 4
        [children] = (await result.refresh()).children
        assert isinstance(children, GroupResult)
        lost, *kept = children.results
        assert [await child for child in kept] == [6, 7]
        with pytest.raises(Unroutable):
            await lost
    assert sorted(offered) == sorted({result.id, *(child.id for child in kept)})
    assert len(await (await frail.open_broker()).dead()) == 1


async def test_no_result_is_stored_before_its_turn(frail: TaskQ) -> None:
    @frail.task(bind=True)
    async def steps(self: AnyTask) -> str:
        for number in range(3):
            self.update_state(f"STEP{number}")
        return "done"

    result = await steps.apply_async(countdown=0.1)
    fail(frail, "save", StoreError("down"), None, StoreError("down again"))
    async with running(frail):
        events = [event.state async for event in result.events()]
    assert events == ["STEP0", "STEP1", "STEP2", "SUCCESS"]


async def test_an_early_acknowledgement_is_insisted_on_before_the_run(frail: TaskQ) -> None:
    waiting: list[int] = []

    @frail.task(acks_late=False)
    async def early() -> None:
        waiting.append(size(frail))

    fail(frail, "settle", *DOWN)
    async with running(frail):
        await (await early.delay())
    assert waiting == [0]


async def test_an_outcome_that_breaks_a_part_is_put_away_and_ends_nobody(
    frail: TaskQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug that one value wakes: all of its batch but that one are carried out."""
    store = await frail.open_store()
    save = store.save

    async def with_a_bug(results: Sequence[TaskResult]) -> None:
        if any(result.value == "bad" for result in results):
            raise ZeroDivisionError("a bug")
        await save(results)

    @frail.task
    async def same(value: str) -> str:
        return value

    monkeypatch.setattr(store, "save", with_a_bug)
    async with running(frail):
        sent = [await same.delay(value) for value in ("good", "bad", "fine")]
        assert [await result.get(propagate=False) for result in sent[::2]] == ["good", "fine"]
        with pytest.raises(ZeroDivisionError, match="a bug"):
            await sent[1]
        await eventually(lambda: size(frail) == 0)
    [letter] = await (await frail.open_broker()).dead()
    assert letter.message is not None
    assert letter.message.headers["id"] == sent[1].id


async def test_a_state_that_breaks_a_part_is_told_to_its_task(frail: TaskQ) -> None:
    @frail.task(bind=True)
    async def steps(self: AnyTask) -> str:
        fail(frail, "save", ZeroDivisionError("a bug"), None)
        try:
            await self.update_state(state="HALF")
        except ZeroDivisionError as error:
            return str(error)
        return ""

    async with running(frail):
        assert await (await steps.delay()) == "a bug"
