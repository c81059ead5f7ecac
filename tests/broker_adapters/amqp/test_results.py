"""Results that are sent, not stored: between two processes' stores over RabbitMQ."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing

import aio_pika
import pytest

from taskq.broker_adapters.amqp.results import RpcStore
from taskq.errors import StoreError
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
        # The caller's queue is declared as Celery declares its own: declaring it again so is no error.
        await channel.declare_queue(
            pair.caller.reply_to, durable=True, auto_delete=True, arguments={"x-expires": 86400000}
        )


async def test_a_caller_that_is_gone_is_no_error(pair: Pair) -> None:
    gone = TaskResult("t", SUCCESS, 1, reply_to=str(uuid.uuid4()))
    await pair.worker.save([gone])
    await pair.worker.save([gone, pair.result("u"), TaskResult("nobody asked", SUCCESS, 1)])

    async def arrived() -> bool:
        return (await pair.caller.load(["u"]))[0] is not None

    await eventually(arrived)


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
