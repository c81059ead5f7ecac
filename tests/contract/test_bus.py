"""The contract of `taskq.seams.bus.Bus`, for every adapter."""

import asyncio
import uuid
from collections.abc import Sequence
from typing import Literal

import pytest

from taskq.seams.bus import Exchange, Inbox, Listener
from taskq.wire.message import Message
from tests.contract.sites import ConnectBroker

pytestmark = pytest.mark.usefixtures("able")

Kind = Literal["fanout", "topic", "direct"]


def exchange(kind: Kind) -> Exchange:
    return Exchange(f"bus-{uuid.uuid4().hex[:8]}", kind)


def inbox(where: Exchange, key: str = "") -> Inbox:
    name = where.reply_inbox(key) if where.kind == "direct" else f"{where.name}.{uuid.uuid4().hex[:8]}"
    return Inbox(name, where, key, ttl=5, expires=10)


def message(where: Exchange, text: str, key: str = "") -> Message:
    return Message({"n": 1}, text.encode(), exchange=where.name, routing_key=key, delivery_mode=1)


async def bodies(listener: Listener, count: int) -> list[str]:
    """The next messages; fails when they do not come."""
    found: list[str] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            arrived: Sequence[Message] = await listener.receive()
            assert arrived, "closed"
            found += [one.body.decode() for one in arrived]
    return found


async def test_everyone_who_listens_hears_what_is_announced(connect: ConnectBroker) -> None:
    speaker, first, second = [await connect() for _ in range(3)]
    where = exchange("fanout")
    listeners = [await broker.bus.listen(inbox(where)) for broker in (first, second, second)]
    await speaker.bus.announce(where, [message(where, "a"), message(where, "b")])
    for listener in listeners:
        assert await bodies(listener, 2) == ["a", "b"]


async def test_what_was_announced_before_is_not_heard(connect: ConnectBroker) -> None:
    speaker, hearer = await connect(), await connect()
    where = exchange("fanout")
    await speaker.bus.announce(where, [message(where, "early")])
    listener = await hearer.bus.listen(inbox(where))
    await speaker.bus.announce(where, [message(where, "late")])
    assert await bodies(listener, 1) == ["late"]


async def test_headers_and_properties_arrive(connect: ConnectBroker) -> None:
    broker = await connect()
    where = exchange("topic")
    listener = await broker.bus.listen(inbox(where, "#"))
    await broker.bus.announce(where, [message(where, "{}", "worker.online")])
    [arrived] = await listener.receive()
    assert (arrived.headers, arrived.routing_key, arrived.content_type) == (
        {"n": 1},
        "worker.online",
        "application/json",
    )


async def test_a_topic_inbox_gets_what_its_pattern_says(connect: ConnectBroker) -> None:
    speaker, hearer = await connect(), await connect()
    where = exchange("topic")
    workers = await hearer.bus.listen(inbox(where, "worker.#"))
    everything = await hearer.bus.listen(inbox(where, "#"))
    keys = ["task.multi", "worker.online", "worker.heartbeat"]
    await speaker.bus.announce(where, [message(where, key, key) for key in keys])
    assert await bodies(everything, 3) == keys
    assert await bodies(workers, 2) == keys[1:]


async def test_a_reply_reaches_the_inbox_of_its_key(connect: ConnectBroker) -> None:
    speaker, hearer = await connect(), await connect()
    where = exchange("direct")
    mine, other = [await hearer.bus.listen(inbox(where, key)) for key in ("mine", "other")]
    await speaker.bus.announce(where, [message(where, "1", "mine"), message(where, "2", "nobody")])
    await speaker.bus.announce(where, [message(where, "3", "mine"), message(where, "4", "other")])
    assert await bodies(mine, 2) == ["1", "3"]
    assert await bodies(other, 1) == ["4"]


async def test_exchanges_are_apart(connect: ConnectBroker) -> None:
    broker = await connect()
    where, elsewhere = exchange("fanout"), exchange("fanout")
    listener = await broker.bus.listen(inbox(where))
    await broker.bus.announce(elsewhere, [message(elsewhere, "no")])
    await broker.bus.announce(where, [message(where, "yes")])
    assert await bodies(listener, 1) == ["yes"]


async def test_a_cancelled_receive_loses_nothing(connect: ConnectBroker) -> None:
    broker = await connect()
    where = exchange("fanout")
    listener = await broker.bus.listen(inbox(where))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await listener.receive()
    await broker.bus.announce(where, [message(where, "still")])
    assert await bodies(listener, 1) == ["still"]


@pytest.mark.parametrize("kind", ["fanout", "direct"])
async def test_a_closed_listener_ends_and_its_inbox_is_gone(connect: ConnectBroker, kind: Kind) -> None:
    broker = await connect()
    where = exchange(kind)
    listener = await broker.bus.listen(inbox(where, "k"))
    waiting = asyncio.ensure_future(listener.receive())
    await asyncio.sleep(0)
    await listener.close()
    assert await waiting == []
    assert await listener.receive() == []
    await listener.close()
    await broker.bus.announce(where, [message(where, "nobody", "k")])
    again = await broker.bus.listen(inbox(where, "k"))
    await broker.bus.announce(where, [message(where, "heard", "k")])
    assert await bodies(again, 1) == ["heard"]


async def test_one_of_two_listeners_may_leave(connect: ConnectBroker) -> None:
    broker = await connect()
    where = exchange("fanout")
    leaving, staying = [await broker.bus.listen(inbox(where)) for _ in range(2)]
    await leaving.close()
    await broker.bus.announce(where, [message(where, "x")])
    assert await bodies(staying, 1) == ["x"]


async def test_many_messages_arrive_in_order(connect: ConnectBroker) -> None:
    speaker, hearer = await connect(), await connect()
    where = exchange("fanout")
    listener = await hearer.bus.listen(inbox(where))
    texts = [str(number) for number in range(1000)]
    for start in range(0, len(texts), 500):
        await speaker.bus.announce(where, [message(where, text) for text in texts[start : start + 500]])
    assert await bodies(listener, len(texts)) == texts
