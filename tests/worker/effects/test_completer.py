"""Effects when broker and store have their bad days: done in order, done until they work, done once."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from taskq import ChordError, GroupResult, Task, TaskQ, chain, chord
from taskq.broker_adapters.memory.broker import HUBS, MemoryBroker
from taskq.errors import (
    BrokerFull,
    ConnectionLost,
    OperationalError,
    PublishErrors,
    Refused,
    SaveErrors,
    StoreError,
    Unroutable,
)
from taskq.seams.store import TaskResult
from taskq.wire.message import Message
from taskq.worker.effects.stage import Later
from taskq.worker.worker import Worker
from tests.faults import FOREVER, fail, heal
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
    caplog.set_level(logging.DEBUG)  # the first failure is a warning, the others are for who looks closer
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


# == not now, and never


def held(worker: Worker) -> int:
    """How many deliveries are not settled."""
    return len(worker._parts.custody) if worker._parts else 0


async def test_a_follow_up_that_is_not_taken_now_holds_up_nobody_else(frail: TaskQ, add: AnyTask) -> None:
    callback = add.s(1).set(queue="full")
    publish_but(frail, "full", BrokerFull("full"))
    async with running(frail) as worker:
        stuck = await add.apply_async((2, 2), link=callback)
        assert await stuck == 4
        for number in range(20):
            assert await (await add.delay(number, 1)) == number + 1
        await eventually(lambda: held(worker) == 1)  # all but the one that is not over
        assert HUBS[frail.conf.broker_url].size("full") == 0
        PUBLISHING.pop(frail.conf.broker_url)
        await eventually(lambda: (held(worker), HUBS[frail.conf.broker_url].size("full")) == (0, 1))


async def test_a_follow_up_that_takes_for_ever_to_send_holds_up_nobody_else(
    frail: TaskQ, add: AnyTask
) -> None:
    release = asyncio.Event()
    publish_but(frail, "slow", release)
    async with running(frail) as worker:
        assert await (await add.apply_async((2, 2), link=add.s(1).set(queue="slow"))) == 4
        followed = [await add.apply_async((number, 1), link=add.s(1)) for number in range(3)]
        for result in followed:
            await result
            [child] = (await result.refresh()).children
            await child
        await eventually(lambda: held(worker) == 1)
        release.set()
        await eventually(lambda: (held(worker), HUBS[frail.conf.broker_url].size("slow")) == (0, 1))


#: URL -> queue -> how its messages fare: an error, or what they wait for.
PUBLISHING: dict[str, dict[str, Exception | asyncio.Event]] = {}


def publish_but(app: TaskQ, queue: str, fate: Exception | asyncio.Event) -> None:
    """Have the broker take all messages but those for this queue."""
    PUBLISHING[app.conf.broker_url] = {queue: fate}


@pytest.fixture(autouse=True)
def fates(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    publish = MemoryBroker.publish

    async def fated(self: MemoryBroker, messages: Sequence[Message]) -> None:
        url = getattr(self, "_url", "")
        failures: dict[int, Any] = {}
        for index, message in enumerate(messages):
            fate = PUBLISHING.get(url, {}).get(message.routing_key)
            if isinstance(fate, asyncio.Event):
                await fate.wait()
            elif fate is not None:
                failures[index] = fate
        await publish(self, [message for index, message in enumerate(messages) if index not in failures])
        if failures:
            raise PublishErrors(failures)

    monkeypatch.setattr(MemoryBroker, "publish", fated)
    yield
    PUBLISHING.clear()


async def test_a_follow_up_that_is_refused_for_good_fails_with_all_that_waits_for_it(
    frail: TaskQ, add: AnyTask
) -> None:
    publish_but(frail, "refused", Refused("no permission"))
    async with running(frail) as worker:
        step = add.s(1).set(queue="refused")
        last: Any = await chain(add.s(2, 2), step, add.s(1)).apply_async()
        members = [add.s(1, 1), chain(add.s(1, 1), step)]
        body: Any = await chord(members, frail.signature("celery.accumulate")).apply_async()
        for handle in (last, last.parent):
            with pytest.raises(Refused, match="no permission"):
                await handle
        with pytest.raises(ChordError, match="no permission"):
            await body
        await eventually(lambda: held(worker) == 0)
    letters = await (await frail.open_broker()).dead()
    assert [letter.reason for letter in letters] == ["no permission"] * 2


async def test_a_result_the_store_refuses_is_a_short_failure_and_no_success(frail: TaskQ) -> None:
    told: list[str] = []

    class Told(Task[Any, Any, Any]):
        def on_success(self, *_: Any) -> None:
            told.append("success")

        def on_failure(self, *_: Any) -> None:
            told.append("failure")

    @frail.task(base=Told)
    async def large() -> str:
        return "large"

    @frail.task
    async def errback(task_id: str) -> None:
        told.append("errback")

    link: AnyTask = errback
    fail(frail, "save", SaveErrors({0: Refused("larger than 512 MB")}))
    async with running(frail):
        result = await large.apply_async(link_error=link.s())
        with pytest.raises(Refused, match="cannot be stored: larger than 512 MB"):
            await result
        await eventually(lambda: sorted(told) == ["errback", "failure"])


async def test_a_failure_the_store_refuses_is_stored_in_short(frail: TaskQ) -> None:
    @frail.task
    async def failing() -> None:
        raise ValueError("x" * 1000)

    fail(frail, "save", SaveErrors({0: Refused("larger than 512 MB")}))
    async with running(frail):
        with pytest.raises(Refused, match="larger than"):
            await (await failing.delay())


async def test_a_part_that_can_never_return_fails_its_chord(
    frail: TaskQ, add: AnyTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(parts: Sequence[Any]) -> Sequence[Any]:
        return [Refused("another type")] * len(parts)

    monkeypatch.setattr(await frail.open_store(), "join_many", refused)
    async with running(frail) as worker:
        body: Any = await chord(
            [add.s(1, 1), add.s(2, 2)], frail.signature("celery.accumulate")
        ).apply_async()
        with pytest.raises(ChordError, match="another type"):
            await body
        await eventually(lambda: held(worker) == 0)


async def test_what_needs_no_store_goes_on_while_the_store_is_away(frail: TaskQ, add: AnyTask) -> None:
    ran = asyncio.Event()

    @frail.task(ignore_result=True)
    async def silent() -> None:
        ran.set()

    fail(frail, "save", StoreError("away"), FOREVER)
    async with running(frail) as worker:
        result = await add.delay(1, 1)
        await eventually(lambda: held(worker) == 1)
        await silent.delay()
        await ran.wait()
        await eventually(lambda: held(worker) == 1)  # the silent one is over
        heal(frail)
        assert await result == 2


async def test_chords_are_joined_again_while_their_store_is_away(frail: TaskQ, add: AnyTask) -> None:
    fail(frail, "join_many", StoreError("away"), StoreError("away"))
    async with running(frail):
        body: Any = await chord(
            [add.s(1, 1), add.s(2, 2)], frail.signature("celery.accumulate")
        ).apply_async()
        assert await body == [[2, 4]]


async def test_what_cannot_go_on_makes_room_for_the_others_at_each_try() -> None:
    """One that is itself what the other side cannot bear goes behind the others."""
    passed: list[str] = []

    async def act(items: list[str]) -> list[str]:
        if "poison" in items:
            return items  # it takes all that go with it along
        passed.extend(items)
        return []

    def unexpected(*_: Any) -> None:
        raise AssertionError

    later = Later(act, unexpected, unexpected)
    later.add(["poison", "good", "fine"])
    await eventually(lambda: sorted(passed) == ["fine", "good"])
    later.close()
