"""Results that are sent, not stored: between two processes' stores over RabbitMQ."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import aio_pika
import aiormq
import pytest

from taskq.broker_adapters.amqp import replies
from taskq.broker_adapters.amqp.results import Received, RpcStore
from taskq.errors import Refused, SaveErrors, StoreError
from taskq.seams.store import StoreConfig, TaskResult, open_store
from taskq.states import FAILURE, SUCCESS
from tests.polling import eventually

pytestmark = pytest.mark.rabbitmq


class Pair:
    """A caller and a worker."""

    def __init__(self, caller: RpcStore, worker: RpcStore) -> None:
        self.caller, self.worker = caller, worker

    def result(self, task_id: str, state: str = SUCCESS, value: object = 1) -> TaskResult:
        return TaskResult(task_id, state, value, reply_to=self.caller.reply_to)


def store(vhost: str, expires: float | None = 86400.0) -> RpcStore:
    made = open_store(StoreConfig(f"rpc+{vhost}", expires=expires))
    assert isinstance(made, RpcStore)
    return made


@pytest.fixture
async def pair(vhost: str) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        caller, worker = store(vhost), store(vhost)
        for one in (caller, worker):
            await one.open()
            stack.push_async_callback(one.close)
        await caller.expect(["t"])
        yield Pair(caller, worker)


async def test_every_state_reaches_the_caller_in_order(pair: Pair) -> None:
    async def collect() -> list[TaskResult]:
        async with asyncio.timeout(10), aclosing(pair.caller.watch("t")) as states:
            return [state async for state in states]

    collecting = asyncio.ensure_future(collect())
    await eventually(lambda: pair.caller.watchers("t") == 1)
    await pair.worker.save([pair.result("t", "PROGRESS", n) for n in range(50)])
    await pair.worker.save([pair.result("t", SUCCESS, "done"), pair.result("t", FAILURE, "late")])
    assert [state.value for state in await collecting] == [*range(50), "done"]
    assert pair.caller.watchers("t") == 0


async def test_a_success_stays_and_can_be_asked_for_again(pair: Pair) -> None:
    await pair.worker.save(
        [pair.result("t", SUCCESS, "first"), pair.result("t", FAILURE, "late"), pair.result("u")]
    )

    async def arrived() -> bool:
        return (await pair.caller.load(["u"]))[0] is not None

    await eventually(arrived)
    for _ in range(2):
        async with aclosing(pair.caller.watch("t")) as states:
            assert [state.value async for state in states] == ["first"]
    assert [one and one.value for one in await pair.caller.load(["t", "nobody"])] == ["first", None]
    await pair.caller.forget(["t"])
    assert await pair.caller.load(["t"]) == [None]


async def test_on_the_wire_as_celery_writes_it(pair: Pair, vhost: str) -> None:
    """wire-format.md 4.9."""
    async with await aio_pika.connect(vhost) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(
            str(uuid.uuid4()), durable=True, auto_delete=True, arguments={"x-expires": 86400000}
        )
        await pair.worker.save([TaskResult("t", SUCCESS, 4, children=[], reply_to=queue.name)])
        message = await queue.get()
        assert message is not None
        assert json.loads(message.body) == {
            "status": "SUCCESS",
            "result": 4,
            "traceback": None,
            "children": [],
            "date_done": None,
            "task_id": "t",
        }
        assert (message.exchange, message.routing_key, message.correlation_id) == ("", queue.name, "t")
        assert (message.delivery_mode, message.priority, message.headers) == (1, 0, {})
        assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")


async def test_a_caller_that_is_gone_is_no_error(pair: Pair) -> None:
    gone = TaskResult("t", SUCCESS, 1, reply_to=str(uuid.uuid4()))
    await pair.worker.save([gone])
    await pair.worker.save([gone, pair.result("u"), TaskResult("nobody asked", SUCCESS, 1)])

    async def arrived() -> bool:
        return (await pair.caller.load(["u"]))[0] is not None

    await eventually(arrived)


async def test_the_reply_queue_is_its_callers_alone_and_goes_with_it(vhost: str) -> None:
    """So it lives on the node that the caller is connected to, wherever that is."""
    caller = store(vhost)
    await caller.open()
    await caller.expect(["t"])
    async with await aio_pika.connect(vhost) as connection:
        channel = await connection.channel()
        with pytest.raises(aiormq.exceptions.ChannelLockedResource):
            await channel.get_queue(caller.reply_to)
        await caller.close()
        with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
            await (await connection.channel()).get_queue(caller.reply_to)


async def test_an_answer_reaches_a_caller_that_was_just_connecting_again(pair: Pair) -> None:
    """Its queue went with its connection, and comes back with the next one."""
    link = pair.caller._broker._consuming
    link.tap.abort()
    await pair.worker.save([pair.result("t"), pair.result("u", "PROGRESS")])
    async with asyncio.timeout(20), aclosing(pair.caller.watch("t")) as states:
        assert (await anext(states)).value == 1
    assert pair.worker._replies.waiting == 0


async def full_queue(vhost: str) -> str:
    """A queue that refuses whatever comes."""
    name = str(uuid.uuid4())
    async with await aio_pika.connect(vhost) as connection:
        full: dict[str, Any] = {"x-max-length": 0, "x-overflow": "reject-publish", "x-expires": 60_000}
        await (await connection.channel()).declare_queue(name, durable=True, arguments=full)
    return name


async def test_a_caller_that_takes_no_answer_holds_up_nobody(pair: Pair, vhost: str) -> None:
    full = await full_queue(vhost)
    async with asyncio.timeout(20):
        for number in range(50):
            await pair.worker.save(
                [TaskResult(f"held {number}", SUCCESS, 1, reply_to=full), pair.result(f"t{number}")]
            )

        async def all_there() -> bool:
            return None not in await pair.caller.load([f"t{number}" for number in range(50)])

        await eventually(all_there)
    assert pair.worker._replies.waiting == 50


async def test_what_a_queue_refused_is_sent_again_for_a_while(
    pair: Pair, vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "_REFUSED_FOR", 1.0)
    full = await full_queue(vhost)
    await pair.worker.save([TaskResult("held", SUCCESS, 1, reply_to=full)])
    assert pair.worker._replies.waiting == 1
    await eventually(lambda: pair.worker._replies.waiting == 0)
    await pair.worker.save([TaskResult("held", "PROGRESS", 1, reply_to=full)])
    assert pair.worker._replies.waiting == 0  # only ends of tasks wait


async def test_callers_that_are_gone_are_remembered(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "_GONE_AFTER", 0.5)
    gone = str(uuid.uuid4())
    await pair.worker.save([TaskResult("a", SUCCESS, 1, reply_to=gone)])
    assert pair.worker._replies.waiting == 1
    await eventually(lambda: pair.worker._replies.waiting == 0)
    await pair.worker.save([TaskResult("b", SUCCESS, 1, reply_to=gone)])
    assert pair.worker._replies.waiting == 0


async def test_an_answer_that_is_refused_for_good_says_which(pair: Pair) -> None:
    bad = TaskResult("t", SUCCESS, 1, reply_to="x" * 256)
    with pytest.raises(SaveErrors) as caught:
        await pair.worker.save([TaskResult("no reply", SUCCESS), pair.result("u"), bad])
    assert {index: type(error) for index, error in caught.value.failures.items()} == {2: Refused}


def test_what_was_received_is_bounded_in_bytes_and_what_was_read_goes_first() -> None:
    received = Received(None, most_bytes=100_000)
    for number in range(9):
        received.add(TaskResult(str(number), SUCCESS, number), 10_000, watched=False)
    assert received.bytes == 99_000
    assert received.last("7") is not None
    received.add(TaskResult("9", SUCCESS, 9), 10_000, watched=False)
    assert (received.last("7"), received.bytes) == (None, 99_000)  # read, so it made room
    received.add(TaskResult("10", SUCCESS, 10), 10_000, watched=False)
    assert received.last("0") is None  # none was read: the oldest
    assert [received.last(str(number)) is not None for number in (1, 8, 9, 10)] == [True] * 4
    received.forget("10")
    assert received.bytes == 88_000


def test_states_before_the_last_are_for_the_first_who_watches() -> None:
    received = Received(None)
    for value in range(3):
        received.add(TaskResult("t", "PROGRESS", value), 10, watched=False)
    assert [state.value for state in received.take("t")] == [0, 1, 2]
    assert [state.value for state in received.take("t")] == [2]


async def test_results_are_forgotten_when_they_expire(vhost: str) -> None:
    brief = store(vhost, expires=0.5)
    await brief.open()
    await brief.expect(["t"])
    await brief.save([TaskResult("t", SUCCESS, 1, reply_to=brief.reply_to)])

    async def present() -> bool:
        return await brief.load(["t"]) != [None]

    async def gone() -> bool:
        return not await present()

    await eventually(present)
    await eventually(gone)
    await brief.close()


async def test_answers_that_cannot_be_read_are_passed_over(pair: Pair, vhost: str) -> None:
    unhashable = (b'{"task_id": ["t"], "status": "SUCCESS"}', b'{"task_id": "t", "status": {}}')
    async with await aio_pika.connect(vhost) as connection:
        channel = await connection.channel()
        for body in (b"", b"null", b"{}", b"[1]", b"\xff", *unhashable):
            await channel.default_exchange.publish(aio_pika.Message(body), pair.caller.reply_to)
    await pair.worker.save([pair.result("t")])
    async with asyncio.timeout(10), aclosing(pair.caller.watch("t")) as states:
        assert (await anext(states)).value == 1


async def test_groups_are_refused_with_a_hint(pair: Pair) -> None:
    with pytest.raises(StoreError, match="redis"):
        await pair.caller.save_group("g", {})
    assert await pair.caller.load_group("g") is None
    await pair.caller.forget_group("g")


async def test_opening_what_is_not_there_says_so() -> None:
    nowhere = store("amqp://guest:s3cret@127.0.0.1:1//")
    with pytest.raises(StoreError, match="cannot") as caught:
        await nowhere.open()
    assert "s3cret" not in str(caught.value)
