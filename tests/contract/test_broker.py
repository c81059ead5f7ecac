"""What every broker adapter must do: the sentences of `taskq.seams.broker`, one test or more for each."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from time import time
from typing import Any

import pytest

from taskq.errors import EncodeError, OperationalError
from taskq.seams.broker import Broker, BrokerConfig, Consumer, open_broker
from taskq.wire.message import DeadLetter, Delivery, Message
from tests.contract.sites import BrokerSite, ConnectBroker
from tests.polling import eventually

LEASE = 0.5
#: A dead holder's messages are back after this many seconds (the promise: lease + 2 s).
BACK = LEASE + 2.0
#: Long enough to see that nothing comes.
SILENCE = 0.25


def message(queue: str, n: int = 0, **fields: Any) -> Message:
    headers = {"task": "t", "id": f"id-{n}", "n": n} | fields.pop("headers", {})
    return Message(headers, f"[[{n}], {{}}, {{}}]".encode(), routing_key=queue, **fields)


def heavy(queue: str, n: int) -> Message:
    """Of 100 kB."""
    return Message({"task": "t", "id": f"id-{n}", "n": n}, b"x" * 100_000, routing_key=queue)


def messages(queue: str, count: int) -> list[Message]:
    return [message(queue, n) for n in range(count)]


def numbers(deliveries: Sequence[Delivery]) -> list[int]:
    return [delivery.message.headers["n"] for delivery in deliveries]


async def take(consumer: Consumer, count: int, *, within: float = 20.0, ack: bool = False) -> list[Delivery]:
    """Receive until there are `count` deliveries."""
    taken: list[Delivery] = []
    async with asyncio.timeout(within):
        while len(taken) < count:
            batch = await consumer.receive(count - len(taken))
            assert 0 < len(batch) <= count - len(taken)
            taken += batch
            if ack:
                await consumer.settle(ack=batch)
    return taken


async def assert_silent(*consumers: Consumer) -> None:
    """Nothing is received for a while (this cancels the receiving)."""
    waiting = [asyncio.ensure_future(consumer.receive(10)) for consumer in consumers]
    done, pending = await asyncio.wait(waiting, timeout=SILENCE)
    for task in pending:
        task.cancel()
    await asyncio.wait(waiting)
    assert [numbers(task.result()) for task in done] == []


@pytest.fixture
def queue(site: BrokerSite) -> str:
    return site.rename("contract")


@pytest.fixture
def other(site: BrokerSite) -> str:
    return site.rename("contract.other")


# == publish, receive, settle


async def test_first_in_first_out_in_batches_up_to_the_limit(connect: ConnectBroker, queue: str) -> None:
    broker = await connect()
    consumer = await broker.consume([queue], prefetch=100)
    await broker.publish(messages(queue, 7))
    await broker.publish([message(queue, n) for n in range(7, 30)])
    first = await consumer.receive(5)
    assert 1 <= len(first) <= 5
    rest = await take(consumer, 30 - len(first))
    assert numbers([*first, *rest]) == list(range(30))
    assert {delivery.queue for delivery in rest} == {queue}
    assert {(delivery.redelivered, delivery.deaths) for delivery in rest} == {(False, 0)}
    await consumer.settle(ack=[*first, *rest])


async def test_publishing_nothing_and_settling_nothing_is_fine(connect: ConnectBroker, queue: str) -> None:
    broker = await connect()
    await broker.publish([])
    consumer = await broker.consume([queue], prefetch=1)
    await consumer.settle()
    await consumer.park([])
    assert list(await consumer.renew([])) == []
    assert await broker.size(queue) == 0


async def test_messages_published_before_anyone_listens_are_kept(connect: ConnectBroker, queue: str) -> None:
    await (await connect()).publish(messages(queue, 3))
    consumer = await (await connect()).consume([queue], prefetch=10)
    assert numbers(await take(consumer, 3, ack=True)) == [0, 1, 2]


async def test_receive_waits_for_a_message(connect: ConnectBroker, queue: str) -> None:
    broker, sender = await connect(), await connect()
    consumer = await broker.consume([queue], prefetch=10)
    await assert_silent(consumer)
    waiting = asyncio.ensure_future(consumer.receive(10))
    await asyncio.sleep(0)
    await sender.publish([message(queue, 1)])
    async with asyncio.timeout(20):
        assert numbers(await waiting) == [1]


HEADERS = {
    "unicode": "żółć 😀 \x00 \u2028",
    "clé": "value of a key that is not ASCII",
    "none": None,
    "empty": "",
    "true": True,
    "false": False,
    "float": 0.1,
    "tiny": 5e-324,
    "negative": -1,
    "big": 2**53 - 1,
    "list": [1, "two", None, [3.5, []]],
    "map": {"a": {"b": {"c": [None]}}, "empty": {}},
    "timelimit": [None, 2.5],
}


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b'[[1, "\xc5\xbc"], {}, {}]', {}),
        (b"", {}),
        (bytes(range(256)) * 3, {"content_type": "application/x-own", "content_encoding": "binary"}),
        (b"x" * 300_000, {"content_type": "application/data"}),
        (b"[]", {"correlation_id": "c-1", "reply_to": "r-1", "delivery_mode": 1, "priority": 3}),
        (b"[]", {"headers": HEADERS}),
        (b"{}", {"headers": {}, "content_type": "application/x-msgpack", "content_encoding": "utf-8"}),
    ],
    ids=["text", "empty", "binary", "large", "properties", "headers", "bare"],
)
async def test_messages_arrive_unchanged(
    connect: ConnectBroker, queue: str, body: bytes, fields: dict[str, Any]
) -> None:
    sent = Message(headers={"task": "t", "id": "1"} | fields.pop("headers", {}), body=body, routing_key=queue)
    for name, value in fields.items():
        setattr(sent, name, value)
    broker = await connect()
    consumer = await broker.consume([queue], prefetch=2)
    await broker.publish([sent])
    (delivery,) = await take(consumer, 1, ack=True)
    assert delivery.message == sent


async def test_the_most_urgent_comes_first(connect: ConnectBroker, site: BrokerSite, queue: str) -> None:
    broker = await connect()
    if not broker.features.priorities:
        pytest.skip("this broker knows no priorities")
    most, more, less, least = site.urgent_first
    mixed = [least, more, most, less, least, most, less, more]
    # Declares the queue where a queue must be told that it has priorities.
    await (await broker.consume([queue], prefetch=1)).close()
    await broker.publish([message(queue, n, priority=p) for n, p in enumerate(mixed)])
    consumer = await broker.consume([queue], prefetch=1)
    received = [(await take(consumer, 1, ack=True))[0].message for _ in mixed]
    assert [m.priority for m in received] == [most, most, more, more, less, less, least, least]
    assert [m.headers["n"] for m in received] == [2, 5, 1, 7, 3, 6, 0, 4]


async def test_queues_are_served_fairly(connect: ConnectBroker, queue: str, other: str) -> None:
    broker = await connect()
    await broker.publish(messages(queue, 100))
    await broker.publish(messages(other, 100))
    consumer = await broker.consume([queue, other], prefetch=10)
    taken = Counter(delivery.queue for delivery in await take(consumer, 60, ack=True))
    assert min(taken[queue], taken[other]) >= 15


async def test_queues_are_served_fairly_one_by_one(connect: ConnectBroker, queue: str, other: str) -> None:
    broker = await connect()
    await broker.publish(messages(queue, 50))
    await broker.publish(messages(other, 50))
    consumer = await broker.consume([queue, other], prefetch=2)
    taken: Counter[str] = Counter()
    for _ in range(40):
        taken.update(delivery.queue for delivery in await take(consumer, 1, ack=True))
    assert min(taken[queue], taken[other]) >= 10


async def test_only_the_asked_queues_are_received(connect: ConnectBroker, queue: str, other: str) -> None:
    broker = await connect()
    await broker.publish([message(other, 1)])
    consumer = await broker.consume([queue], prefetch=10)
    await assert_silent(consumer)
    assert await broker.size(other) == 1


async def test_no_more_is_held_than_the_prefetch(connect: ConnectBroker, queue: str) -> None:
    broker = await connect()
    consumer = await broker.consume([queue], prefetch=5)
    await broker.publish(messages(queue, 20))
    held = await take(consumer, 5)
    await assert_silent(consumer)
    waiting = asyncio.ensure_future(consumer.receive(100))
    await asyncio.sleep(0)
    await consumer.settle(ack=held[:2])
    async with asyncio.timeout(20):
        more = list(await waiting)
    more += await take(consumer, 2 - len(more)) if len(more) < 2 else []
    assert numbers(more) == [5, 6]
    await assert_silent(consumer)


@pytest.mark.usefixtures("able")
async def test_another_number_may_be_held_later(connect: ConnectBroker, queue: str) -> None:
    broker = await connect()
    consumer = await broker.consume([queue], prefetch=2)
    await broker.publish(messages(queue, 20))
    held = await take(consumer, 2)
    waiting = asyncio.ensure_future(consumer.receive(100))
    await asyncio.sleep(0)
    await consumer.resize(6)
    async with asyncio.timeout(20):
        held += await waiting
    held += await take(consumer, 6 - len(held)) if len(held) < 6 else []
    assert len(held) <= 2 + 6
    await consumer.settle(ack=held)
    await consumer.resize(1)
    rest = await take(consumer, 20 - len(held), ack=True)
    assert sorted(numbers([*held, *rest])) == list(range(20))


async def test_no_more_is_taken_once_it_comes_to_so_many_bytes(connect: ConnectBroker, queue: str) -> None:
    broker = await connect()
    await broker.publish([message(queue, n) for n in range(5)])
    await broker.publish([heavy(queue, n) for n in range(5, 15)])
    consumer = await broker.consume([queue], prefetch=100)
    taken: list[Delivery] = []
    while len(taken) < 15:
        async with asyncio.timeout(20):
            batch = await consumer.receive(100, 300_000)
        sizes = [len(delivery.message.body) for delivery in batch]
        assert sum(sizes[:-1]) < 300_000
        taken += batch
    assert numbers(taken) == list(range(15))


async def test_one_larger_than_that_is_taken_too(connect: ConnectBroker, queue: str) -> None:
    broker = await connect()
    await broker.publish([heavy(queue, n) for n in range(3)])
    consumer = await broker.consume([queue], prefetch=100)
    async with asyncio.timeout(20):
        assert [numbers(await consumer.receive(100, 1)) for _ in range(3)] == [[0], [1], [2]]


async def test_acknowledged_messages_are_gone(connect: ConnectBroker, queue: str) -> None:
    broker = await connect()
    consumer = await broker.consume([queue], prefetch=10)
    await broker.publish(messages(queue, 3))
    await take(consumer, 3, ack=True)
    await consumer.close()
    assert await broker.size(queue) == 0
    await assert_silent(await broker.consume([queue], prefetch=10))


async def test_requeued_messages_come_back_at_once(connect: ConnectBroker, queue: str) -> None:
    broker = await connect()
    consumer = await broker.consume([queue], prefetch=10)
    await broker.publish(messages(queue, 3))
    held = await take(consumer, 3)
    await consumer.settle(ack=held[:1], requeue=held[1:])
    again = await take(consumer, 2)
    assert sorted(numbers(again)) == [1, 2]
    assert {(delivery.redelivered, delivery.deaths) for delivery in again} == {(True, 0)}
    await consumer.settle(ack=again)


async def test_requeued_messages_reach_a_waiting_consumer(connect: ConnectBroker, queue: str) -> None:
    first, second = await connect(), await connect()
    holder = await first.consume([queue], prefetch=1)
    await first.publish([message(queue, 1)])
    held = await take(holder, 1)
    waiting = asyncio.ensure_future((await second.consume([queue], prefetch=1)).receive(1))
    await asyncio.sleep(0)
    await holder.close()
    async with asyncio.timeout(20):
        assert numbers(await waiting) == numbers(held)


@pytest.mark.usefixtures("able")
async def test_park_keeps_a_message_until_its_time(
    connect: ConnectBroker, site: BrokerSite, queue: str
) -> None:
    broker = await connect()
    consumer = await broker.consume([queue], prefetch=10)
    await broker.publish(messages(queue, 2))
    held = await take(consumer, 2)
    until = time() + 1.0
    await consumer.park([(held[0], until)])
    await consumer.settle(ack=held[1:])
    assert await broker.size(queue) == int(site.counts_delayed)
    assert await broker.ready(queue) == 0
    (again,) = await take(consumer, 1)
    assert until <= time() < until + 2.0
    assert again.message.headers["n"] == 0
    assert again.deaths == 0
    await consumer.settle(ack=[again])
    assert await broker.size(queue) == 0


@pytest.mark.usefixtures("able")
async def test_parked_messages_make_room(connect: ConnectBroker, queue: str) -> None:
    broker = await connect()
    consumer = await broker.consume([queue], prefetch=2)
    await broker.publish(messages(queue, 4))
    held = await take(consumer, 2)
    await consumer.park([(delivery, time() + 3600) for delivery in held])
    assert numbers(await take(consumer, 2)) == [2, 3]


@pytest.mark.usefixtures("able")
async def test_parked_messages_reach_any_consumer(connect: ConnectBroker, queue: str) -> None:
    first, second = await connect(), await connect()
    holder = await first.consume([queue], prefetch=1)
    await first.publish([message(queue, 1)])
    waiting = await second.consume([queue], prefetch=1)
    held = await take(holder, 1)
    await holder.park([(held[0], time() + 0.5)])
    await holder.close()
    await first.close()
    assert numbers(await take(waiting, 1)) == [1]


# == due


async def test_due_messages_come_when_they_are_due(
    connect: ConnectBroker, site: BrokerSite, queue: str
) -> None:
    broker = await connect()
    if not broker.features.delays:
        pytest.skip("this broker delivers messages with a due time at once")
    consumer = await broker.consume([queue], prefetch=10)
    start = time()
    dues = [start + 1.2, start + 0.4, start + 0.8]
    await broker.publish([message(queue, n, due=due) for n, due in enumerate(dues)])
    await broker.publish([message(queue, 3)])
    assert await broker.size(queue) == (4 if site.counts_delayed else 0)
    order = []
    for _ in range(4):
        (delivery,) = await take(consumer, 1, ack=True)
        n = delivery.message.headers["n"]
        order.append(n)
        assert n == 3 or dues[n] <= time() < dues[n] + 2.0
    assert order == [3, 1, 2, 0]


async def test_a_due_time_that_has_passed_is_no_delay(connect: ConnectBroker, queue: str) -> None:
    broker = await connect()
    consumer = await broker.consume([queue], prefetch=10)
    due = float(int(time()) - 5)
    await broker.publish([message(queue, 1, due=due, headers={"eta": "2000-01-01T00:00:00+00:00"})])
    (delivery,) = await take(consumer, 1, ack=True)
    assert delivery.message.headers["n"] == 1


async def test_without_delays_a_due_message_comes_at_once(connect: ConnectBroker, queue: str) -> None:
    broker = await connect()
    if broker.features.delays:
        pytest.skip("this broker holds messages back by itself")
    consumer = await broker.consume([queue], prefetch=10)
    await broker.publish([message(queue, 1, due=time() + 3600, headers={"eta": "2099-01-01T00:00:00+00:00"})])
    assert numbers(await take(consumer, 1, ack=True)) == [1]


# == sharing


async def test_two_consumers_share_without_duplicates(connect: ConnectBroker, queue: str) -> None:
    brokers = [await connect() for _ in range(3)]
    consumers = [await broker.consume([queue], prefetch=7) for broker in brokers[:2]]
    seen: list[int] = []

    async def work(consumer: Consumer) -> None:
        while batch := await consumer.receive(5):
            seen.extend(numbers(batch))
            await consumer.settle(ack=batch)

    workers = [asyncio.ensure_future(work(consumer)) for consumer in consumers]
    for start in range(0, 300, 50):
        await brokers[2].publish([message(queue, n) for n in range(start, start + 50)])
    await eventually(lambda: len(seen) >= 300)
    for consumer in consumers:
        await consumer.close()
    await asyncio.gather(*workers)
    assert sorted(seen) == list(range(300))


async def test_a_connection_can_consume_twice(connect: ConnectBroker, queue: str, other: str) -> None:
    broker = await connect()
    first = await broker.consume([queue], prefetch=3)
    second = await broker.consume([other], prefetch=3)
    await broker.publish([message(queue, 1), message(other, 2)])
    assert numbers(await take(second, 1, ack=True)) == [2]
    assert numbers(await take(first, 1, ack=True)) == [1]


# == cancel, close


@pytest.mark.usefixtures("able")
async def test_turning_to_other_queues(connect: ConnectBroker, queue: str, other: str) -> None:
    broker = await connect()
    consumer = await broker.consume([queue], prefetch=100)
    await broker.publish(messages(queue, 1))
    held = await take(consumer, 1)
    await consumer.subscribe([queue, other])
    await broker.publish(messages(other, 2))
    await consumer.settle(ack=await take(consumer, 2))
    await consumer.subscribe([other])
    await consumer.settle(requeue=held)
    await assert_silent(consumer)
    await broker.publish([message(other, 7)])
    assert numbers(await take(consumer, 1, ack=True)) == [7]
    assert await eventually(lambda: broker.size(queue)) == 1


@pytest.mark.usefixtures("able")
async def test_turning_reaches_a_waiting_receive_and_none_may_be_left(
    connect: ConnectBroker, queue: str, other: str
) -> None:
    broker = await connect()
    consumer = await broker.consume([queue], prefetch=100)
    waiting = asyncio.create_task(take(consumer, 1, ack=True))
    await asyncio.sleep(0)
    await consumer.subscribe([other])
    await broker.publish([message(other, 3)])
    assert numbers(await waiting) == [3]
    await consumer.subscribe([])
    await broker.publish(messages(other, 1))
    await assert_silent(consumer)
    await consumer.subscribe([other])
    assert numbers(await take(consumer, 1, ack=True)) == [0]


@pytest.mark.usefixtures("able")
async def test_turning_away_gives_back_what_came_ahead(
    connect: ConnectBroker, queue: str, other: str
) -> None:
    broker, elsewhere = await connect(), await connect()
    consumer = await broker.consume([queue], prefetch=100)
    await broker.publish(messages(queue, 20))
    await consumer.settle(ack=await take(consumer, 1))
    await consumer.subscribe([other])
    assert numbers(await take(await elsewhere.consume([queue], prefetch=100), 19)) == [*range(1, 20)]


async def test_cancelling_receive_loses_nothing(connect: ConnectBroker, queue: str) -> None:
    broker, sender = await connect(), await connect()
    consumer = await broker.consume([queue], prefetch=100)
    seen: list[int] = []
    for n in range(40):
        waiting = asyncio.ensure_future(consumer.receive(100))
        sending = asyncio.ensure_future(sender.publish([message(queue, n)]))
        for _ in range(n):  # cancelled ever later in the exchange with the broker
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        seen += [] if waiting.cancelled() else numbers(waiting.result())
        await sending
    seen += numbers(await take(consumer, 40 - len(seen)))
    assert seen == list(range(40))


async def test_close_wakes_receive_and_later_ones(connect: ConnectBroker, queue: str) -> None:
    broker = await connect()
    consumer = await broker.consume([queue], prefetch=10)
    waiting = asyncio.ensure_future(consumer.receive(10))
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await consumer.close()
        assert list(await waiting) == []
        assert list(await consumer.receive(10)) == []


async def test_close_gives_back_what_is_held_at_once(connect: ConnectBroker, queue: str) -> None:
    broker, second = await connect(lease=60), await connect(lease=60)
    consumer = await broker.consume([queue], prefetch=10)
    await broker.publish(messages(queue, 10))
    held = await take(consumer, 6)
    await consumer.settle(ack=held[:2])
    await consumer.close()
    again = await take(await second.consume([queue], prefetch=10), 8)
    assert sorted(numbers(again)) == list(range(2, 10))
    assert {delivery.deaths for delivery in again} == {0}


async def test_closing_the_connection_gives_back_too(connect: ConnectBroker, queue: str) -> None:
    broker, second = await connect(lease=60), await connect(lease=60)
    consumer = await broker.consume([queue], prefetch=10)
    await broker.publish(messages(queue, 3))
    await take(consumer, 3)
    await broker.close()
    again = await take(await second.consume([queue], prefetch=10), 3)
    assert sorted(numbers(again)) == [0, 1, 2]


async def test_closing_twice_is_fine(connect: ConnectBroker, queue: str) -> None:
    broker = await connect()
    consumer = await broker.consume([queue], prefetch=10)
    await consumer.close()
    await consumer.close()
    await broker.close()
    await broker.close()


# == leases


@pytest.fixture
async def leased(connect: ConnectBroker) -> Broker:
    broker = await connect(lease=LEASE)
    if not broker.features.leases:
        pytest.skip("this broker sees its consumers die by itself")
    return broker


async def test_what_a_dead_holder_held_comes_back_to_an_idle_queue(
    leased: Broker, connect: ConnectBroker, queue: str
) -> None:
    dead = await leased.consume([queue], prefetch=10)
    await leased.publish(messages(queue, 3))
    await take(dead, 3)
    heir = await (await connect(lease=LEASE)).consume([queue], prefetch=10)
    again = await take(heir, 3, within=BACK)
    assert sorted(numbers(again)) == [0, 1, 2]
    assert {(delivery.redelivered, delivery.deaths) for delivery in again} == {(True, 1)}
    await heir.settle(ack=again)


async def test_it_comes_back_to_one_who_waited_all_the_time(
    leased: Broker, connect: ConnectBroker, queue: str, other: str
) -> None:
    heir = await (await connect(lease=30)).consume([other, queue], prefetch=1)
    await leased.publish([message(other, 1)])
    busy = await take(heir, 1)
    dead = await leased.consume([queue], prefetch=1)
    await leased.publish([message(queue, 2)])
    await take(dead, 1)
    await heir.settle(ack=busy)
    assert numbers(await take(heir, 1, within=BACK)) == [2]


async def test_renewed_messages_stay(leased: Broker, connect: ConnectBroker, queue: str) -> None:
    holder = await leased.consume([queue], prefetch=10)
    await leased.publish(messages(queue, 3))
    held = await take(holder, 3)
    heir = await (await connect(lease=LEASE)).consume([queue], prefetch=10)
    waiting = asyncio.ensure_future(heir.receive(10))
    end = time() + 3 * LEASE
    while time() < end:
        assert list(await holder.renew(held)) == []
        await asyncio.wait([waiting], timeout=LEASE / 5)
        assert not waiting.done()
    await holder.settle(ack=held)
    await asyncio.wait([waiting], timeout=2 * LEASE)
    assert not waiting.done()
    waiting.cancel()


async def test_deaths_are_counted_and_survive_requeue_and_park(
    leased: Broker, connect: ConnectBroker, queue: str
) -> None:
    await leased.publish([message(queue, 1)])
    for expected in (0, 1, 2):
        victim = await (await connect(lease=LEASE)).consume([queue], prefetch=1)
        (delivery,) = await take(victim, 1, within=BACK + 1)
        assert delivery.deaths == expected
        if delivery.deaths:
            await victim.strike(delivery)
    holder = await (await connect(lease=30)).consume([queue], prefetch=1)
    (delivery,) = await take(holder, 1, within=BACK + 1)
    assert delivery.deaths == 3
    await holder.settle(requeue=[delivery])
    (delivery,) = await take(holder, 1)
    assert delivery.deaths == 3
    await holder.park([(delivery, time() + 0.2)])
    (delivery,) = await take(holder, 1)
    assert delivery.deaths == 3
    await holder.close()
    holder = await (await connect(lease=30)).consume([queue], prefetch=1)
    (delivery,) = await take(holder, 1)
    assert delivery.deaths == 3
    await holder.settle(ack=[delivery])


@pytest.mark.usefixtures("able")
async def test_a_strike_that_is_not_taken_back_counts_for_one_given_back(
    connect: ConnectBroker, queue: str
) -> None:
    """As of a run that took its process with it, and not its worker."""
    broker = await connect()
    await broker.publish([message(queue, 1)])
    consumer = await broker.consume([queue], prefetch=1)
    for expected in (0, 1, 2):
        (delivery,) = await take(consumer, 1)
        assert delivery.deaths == expected
        await consumer.strike(delivery)
        await consumer.settle(requeue=[delivery])
    (delivery,) = await take(consumer, 1)
    assert delivery.deaths == 3
    await consumer.strike(delivery)
    await consumer.strike(delivery, -1)
    await consumer.settle(requeue=[delivery])
    (delivery,) = await take(consumer, 1)
    assert delivery.deaths == 3
    await consumer.settle(ack=[delivery])


async def test_what_is_not_blamed_stays_at_one_death(
    leased: Broker, connect: ConnectBroker, queue: str
) -> None:
    await leased.publish([message(queue, 1)])
    for expected in (0, 1, 1):
        victim = await (await connect(lease=LEASE)).consume([queue], prefetch=1)
        (delivery,) = await take(victim, 1, within=BACK + 1)
        assert delivery.deaths == expected
    holder = await (await connect(lease=30)).consume([queue], prefetch=1)
    (delivery,) = await take(holder, 1, within=BACK + 1)
    await holder.strike(delivery)
    await holder.strike(delivery, -1)
    await holder.settle(requeue=[delivery])
    (delivery,) = await take(holder, 1)
    assert delivery.deaths == 1
    await holder.settle(ack=[delivery])


async def test_a_lost_lease_is_told_and_a_late_settle_changes_nothing(
    leased: Broker, connect: ConnectBroker, queue: str
) -> None:
    paused = await leased.consume([queue], prefetch=10)
    await leased.publish(messages(queue, 5))
    held = await take(paused, 5)
    second = await connect(lease=30)
    heir = await second.consume([queue], prefetch=10)
    taken_over = await take(heir, 5, within=BACK + 1)
    lost = await paused.renew(held)
    assert set(map(id, lost)) == set(map(id, held))
    await paused.settle(ack=held[:1], requeue=held[1:2], reject=[(held[2], "late")])
    await paused.park([(held[3], time())])
    await paused.close()
    assert list(await heir.renew(taken_over)) == []
    assert await second.size(queue) == 0
    assert list(await second.dead()) == []
    await heir.settle(requeue=taken_over)
    again = await take(heir, 5)
    assert sorted(numbers(again)) == [0, 1, 2, 3, 4]
    assert {delivery.deaths for delivery in again} == {1}
    await heir.settle(ack=again)


async def test_a_late_settle_leaves_ones_own_new_delivery_alone(
    leased: Broker, connect: ConnectBroker, queue: str, other: str
) -> None:
    paused = await leased.consume([queue], prefetch=3)
    await leased.publish(messages(queue, 2))
    held = await take(paused, 2)
    finder = await (await connect(lease=30)).consume([queue], prefetch=1)
    (taken_over,) = await take(finder, 1, within=BACK + 1)
    (again,) = await take(paused, 1)
    assert again.deaths == 1
    await paused.settle(ack=held)
    await finder.settle(ack=[taken_over])
    await paused.settle(requeue=[again])
    assert numbers(await take(finder, 1)) == numbers([again])


async def test_a_dead_holder_s_poison_comes_back_with_the_rest(
    leased: Broker, connect: ConnectBroker, site: BrokerSite, queue: str
) -> None:
    """Names that cannot be written, headers nested too deeply to be read: who gives back reads them, too."""
    if site.put_raw is None:
        pytest.skip("nobody can put such bytes there")
    dead = await leased.consume([queue], prefetch=10)
    await leased.publish([message(queue, 1), message(queue, 2, headers={"id": "\ud800"}), message(queue, 3)])
    await take(dead, 3)
    heir = await (await connect(lease=LEASE)).consume([queue], prefetch=10)
    again = await take(heir, 3, within=BACK)
    assert {(delivery.redelivered, delivery.deaths) for delivery in again} == {(True, 1)}
    for delivery in again:
        await heir.strike(delivery)
    await heir.settle(ack=again)


async def test_a_paused_consumer_goes_on_afterwards(
    leased: Broker, connect: ConnectBroker, queue: str
) -> None:
    paused = await leased.consume([queue], prefetch=2)
    await leased.publish(messages(queue, 2))
    held = await take(paused, 2)
    heir = await (await connect(lease=30)).consume([queue], prefetch=2)
    taken_over = await take(heir, 2, within=BACK + 1)
    await heir.settle(ack=taken_over)
    await paused.settle(ack=held)
    await heir.close()
    await leased.publish([message(queue, 2)])
    assert numbers(await take(paused, 1, ack=True)) == [2]


# == sizes


async def test_size_counts_what_waits(connect: ConnectBroker, queue: str, other: str) -> None:
    broker = await connect()
    assert await broker.size(queue) == 0
    await broker.publish([*messages(queue, 5), message(other, 1)])
    assert await broker.size(queue) == 5
    consumer = await broker.consume([queue], prefetch=2)
    held = await take(consumer, 2)
    assert await broker.size(queue) == await broker.ready(queue) == 3
    await consumer.settle(requeue=held)
    await consumer.close()
    assert await broker.size(queue) == 5


async def test_purge_removes_what_waits(
    connect: ConnectBroker, site: BrokerSite, queue: str, other: str
) -> None:
    broker = await connect()
    urgent, *_, least = site.urgent_first
    consumer = await broker.consume([queue], prefetch=2)
    await broker.publish([*messages(queue, 2), message(other, 1)])
    held = await take(consumer, 2)
    await broker.publish([message(queue, 2, priority=urgent), message(queue, 3, priority=least)])
    assert await broker.purge(queue) == 2
    assert await broker.size(queue) == 0
    assert await broker.purge(queue) == 0
    assert await broker.size(other) == 1
    await consumer.settle(requeue=held)
    assert sorted(numbers(await take(consumer, 2, ack=True))) == [0, 1]


async def test_purge_removes_delayed_messages_that_size_counts(
    connect: ConnectBroker, site: BrokerSite, queue: str
) -> None:
    broker = await connect()
    if not broker.features.delays or not site.counts_delayed:
        pytest.skip("this broker knows of no delayed messages by queue")
    await broker.publish([message(queue, 1, due=time() + 3600), message(queue, 2)])
    assert await broker.size(queue) == await broker.purge(queue) == 2
    assert await broker.size(queue) == 0


@pytest.mark.usefixtures("able")
async def test_hastened_messages_come_at_once_and_unchanged(
    connect: ConnectBroker, site: BrokerSite, queue: str, other: str
) -> None:
    broker = await connect()
    if not site.counts_delayed:
        pytest.skip("this broker knows of no delayed messages by queue")
    consumer = await broker.consume([queue, other], prefetch=10)
    sent = [message(queue, 1), message(queue, 2), message(other, 3)]
    await broker.publish(sent)
    held = await take(consumer, 3)
    await consumer.park([(delivery, time() + 3600) for delivery in held])
    await broker.promote(other)
    (first,) = await take(consumer, 1)
    assert first.message == sent[2]
    await broker.promote(queue)
    rest = await take(consumer, 2)
    assert sorted(numbers(rest)) == [1, 2]
    assert {delivery.deaths for delivery in rest} == {0}
    await consumer.settle(ack=[first, *rest])
    await broker.promote(queue)
    await assert_silent(consumer)


@pytest.mark.usefixtures("able")
async def test_recalled_tasks_come_at_once_and_unchanged(
    connect: ConnectBroker, site: BrokerSite, queue: str, other: str
) -> None:
    broker, caller = await connect(), await connect()
    if not site.counts_delayed:
        await broker.recall(["id-1"])
        pytest.skip("this broker finds no delayed messages by task")
    consumer = await broker.consume([queue, other], prefetch=20)
    urgent, *_, least = site.urgent_first
    sent = [
        message(queue, 1),
        message(queue, 2),
        message(other, 3, priority=urgent),
        message(other, 4, priority=least),
        message(queue, 5, headers={"parent_id": "id-1", "note": '"id": "id-2"'}),
        message(queue, 6, headers={"id": "ż'\"\\"}),
    ]
    await broker.publish(sent)
    held = await take(consumer, len(sent))
    await consumer.park([(delivery, time() + 3600) for delivery in held])
    await caller.recall(["id-3", "id-4", "unknown"])
    assert sorted(numbers(await take(consumer, 2, ack=True))) == [3, 4]
    await caller.recall(["id-1", "id-3"])
    (first,) = await take(consumer, 1)
    assert first.message == sent[0]
    await consumer.park([(first, time() + 3600)])
    await caller.recall(["id-1", "ż'\"\\"])
    rest = await take(consumer, 2)
    assert sorted(numbers(rest)) == [1, 6]
    assert {delivery.deaths for delivery in rest} == {0}
    await consumer.settle(ack=rest)
    await caller.recall([])
    await caller.recall(["id-1"])
    await assert_silent(consumer)
    assert await broker.size(queue) == 2
    await broker.purge(queue)
    await caller.recall(["id-2", "id-5"])
    await assert_silent(consumer)


@pytest.mark.usefixtures("able")
async def test_of_two_parked_messages_of_one_task_none_is_lost(
    connect: ConnectBroker, site: BrokerSite, queue: str
) -> None:
    broker = await connect()
    if not site.counts_delayed:
        pytest.skip("this broker finds no delayed messages by task")
    consumer = await broker.consume([queue], prefetch=10)
    await broker.publish([message(queue, 1), message(queue, 1)])
    held = await take(consumer, 2)
    await consumer.park([(delivery, time() + 3600) for delivery in held])
    assert await broker.size(queue) == 2
    await broker.recall(["id-1"])
    await broker.promote(queue)
    assert numbers(await take(consumer, 2, ack=True)) == [1, 1]
    assert await broker.size(queue) == 0


async def test_what_the_broker_delays_from_the_start_is_recalled(
    connect: ConnectBroker, site: BrokerSite, queue: str
) -> None:
    broker = await connect()
    if not (broker.features.delays and site.counts_delayed):
        pytest.skip("this broker finds no delayed messages by task")
    consumer = await broker.consume([queue], prefetch=10)
    await broker.publish([message(queue, n, due=time() + 3600) for n in range(3)])
    await broker.recall(["id-1"])
    assert numbers(await take(consumer, 1, ack=True)) == [1]
    assert await broker.size(queue) == 2


# == revoked


async def test_revoked_ids_are_remembered_until_their_time(connect: ConnectBroker) -> None:
    broker, second = await connect(), await connect()
    await broker.revoke(["a", "b", "ż"], time() + 3600)
    await broker.revoke(["past"], time() - 1)
    assert set(await second.revoked(["a", "ż", "past", "other"])) == {"a", "ż"}
    assert set(await second.revoked([])) == set()
    assert set(await broker.revoked(["b"])) == {"b"}


async def test_revocation_ends(connect: ConnectBroker) -> None:
    broker = await connect()
    await broker.revoke(["b"], time() + 3600)  # the first call declares a queue, which may take a second
    until = time() + 1.0
    await broker.revoke(["a"], until)
    assert set(await broker.revoked(["a"])) == {"a"} or time() >= until

    async def over() -> bool:
        return not await broker.revoked(["a"])

    await eventually(over)
    assert time() >= until


async def test_revoking_again_sets_the_later_time(connect: ConnectBroker) -> None:
    broker = await connect()
    await broker.revoke(["a"], time() - 1)
    await broker.revoke(["a"], time() + 3600)
    assert set(await broker.revoked(["a"])) == {"a"}


# == dead letters


async def make_dead(broker: Broker, queue: str, count: int) -> list[DeadLetter]:
    consumer = await broker.consume([queue], prefetch=count)
    await broker.publish(messages(queue, count))
    for delivery in await take(consumer, count):
        await consumer.settle(reject=[(delivery, f"reason {delivery.message.headers['n']}")])
    await consumer.close()
    return list(await broker.dead())


async def test_rejected_messages_become_dead_letters(connect: ConnectBroker, queue: str) -> None:
    broker, second = await connect(), await connect()
    start = time()
    sent = [message(queue, n, correlation_id=str(n)) for n in range(3)]
    consumer = await broker.consume([queue], prefetch=10)
    await broker.publish(sent)
    held = await take(consumer, 3)
    await consumer.settle(reject=[(held[1], "unknown task 'ż'")], ack=[held[0]])
    (letter,) = await second.dead()
    assert (letter.queue, letter.reason, letter.message) == (queue, "unknown task 'ż'", sent[1])
    assert start - 1 <= letter.at <= time() + 1
    assert await broker.size(queue) == 0
    await consumer.close()
    assert numbers(await take(await broker.consume([queue], prefetch=5), 1)) == [2]


async def test_dead_letters_newest_first_up_to_the_limit(connect: ConnectBroker, queue: str) -> None:
    broker = await connect()
    letters = await make_dead(broker, queue, 5)
    assert [letter.reason for letter in letters] == [f"reason {n}" for n in (4, 3, 2, 1, 0)]
    assert [letter.reason for letter in await broker.dead(2)] == ["reason 4", "reason 3"]
    assert len({letter.id for letter in letters}) == 5


async def test_exhumed_letters_are_taken_out(connect: ConnectBroker, queue: str) -> None:
    broker = await connect()
    letters = await make_dead(broker, queue, 3)
    taken = await broker.revive([letters[2].id, "no such letter", letters[0].id])
    assert sorted(letter.reason for letter in taken) == ["reason 0", "reason 2"]
    assert [letter.reason for letter in await broker.dead()] == ["reason 1"]
    assert list(await broker.revive([letters[0].id])) == []
    assert list(await broker.revive([])) == []
    await broker.publish([letter.message for letter in taken if letter.message is not None])
    consumer = await broker.consume([queue], prefetch=5)
    assert sorted(numbers(await take(consumer, 2, ack=True))) == [0, 2]


async def test_exhume_finds_letters_beyond_the_newest(connect: ConnectBroker, queue: str) -> None:
    broker = await connect()
    letters = await make_dead(broker, queue, 30)
    assert len(await broker.revive([letter.id for letter in letters[10:]])) == 20
    assert [letter.id for letter in await broker.dead()] == [letter.id for letter in letters[:10]]


async def test_bury_puts_letters_back(connect: ConnectBroker, queue: str) -> None:
    broker = await connect()
    letters = await make_dead(broker, queue, 3)
    taken = await broker.revive([letter.id for letter in letters])
    await broker.bury(taken)
    again = list(await broker.dead())
    assert [(x.queue, x.reason, x.message) for x in again] == [
        (x.queue, x.reason, x.message) for x in letters
    ]
    assert [x.at for x in again] == pytest.approx([x.at for x in letters], abs=0.001)
    assert len(await broker.revive([letter.id for letter in again])) == 3


async def test_unreadable_letters_keep_their_bytes(connect: ConnectBroker, queue: str) -> None:
    broker = await connect()
    await broker.bury([DeadLetter("x", queue, "not JSON", time(), None, b"\xff\x00{")])
    (letter,) = await broker.dead()
    assert (letter.message, letter.raw, letter.reason) == (None, b"\xff\x00{", "not JSON")


DEEP = b'{"headers": {"n": %d, "deep": %s}}' % (10**30, b"[" * 1010 + b"]" * 1010)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"{",
        b"\xff\xfe",
        b'"text"',
        b"[]",
        b"{}",
        b'{"headers": 1}',
        pytest.param(DEEP, id="deep"),
    ],
)
async def test_what_is_not_a_message_becomes_a_dead_letter(
    connect: ConnectBroker, site: BrokerSite, queue: str, raw: bytes
) -> None:
    if site.put_raw is None:
        pytest.skip("nobody can put such bytes there")
    broker = await connect()
    consumer = await broker.consume([queue], prefetch=10)
    await site.put_raw(queue, raw)
    await broker.publish([message(queue, 1)])
    assert numbers(await take(consumer, 1, ack=True)) == [1]

    async def buried() -> Sequence[DeadLetter]:
        return await broker.dead()

    (letter,) = await eventually(buried)
    assert (letter.message, letter.raw, letter.queue) == (None, raw, queue)
    assert letter.reason
    assert await broker.size(queue) == 0


# == errors


class Unwritable:
    """No broker can carry it."""


@pytest.mark.parametrize(
    "wrong",
    [
        {"headers": {"x": Unwritable()}},
        {"headers": {"x": {"__type__": "unknown", "__value__": 1}, "y": Unwritable()}},
        {"routing_key": "half\ud800"},
    ],
    ids=["header", "headers", "queue"],
)
async def test_a_message_that_cannot_be_written_stops_the_batch_and_nothing_else(
    connect: ConnectBroker, queue: str, wrong: dict[str, Any]
) -> None:
    """Who publishes sends the others again: none of them may have been sent, or be known by its name."""
    broker = await connect()
    bad = message(queue, 2, headers=wrong.get("headers", {}))
    bad = replace(bad, **{name: value for name, value in wrong.items() if name != "headers"})
    good = [message(queue, n, once=f"once-{n}") for n in (1, 3)]
    with pytest.raises(EncodeError):
        await broker.publish([good[0], bad, good[1]])
    assert await broker.size(queue) == 0
    await broker.publish(good)
    await broker.publish([message(queue, 4)])
    consumer = await broker.consume([queue], prefetch=10)
    assert sorted(numbers(await take(consumer, 3, ack=True))) == [1, 3, 4]
    await assert_silent(consumer)


async def test_opening_what_is_not_there_says_so(site: BrokerSite) -> None:
    if site.unreachable is None:
        pytest.skip("always there")
    broker = open_broker(BrokerConfig(site.unreachable, timeout=0.5))
    with pytest.raises(OperationalError) as caught:
        await broker.open()
    assert "s3cret" not in str(caught.value)
