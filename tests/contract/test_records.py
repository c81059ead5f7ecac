"""What a broker remembers is bounded by its settings, on each alike; and one rule of topics holds for all."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import pytest

from taskq.seams.broker import Broker, BrokerConfig, Queue, open_broker
from taskq.seams.bus import Arrivals, Exchange, Inbox
from taskq.seams.records import Retention
from taskq.wire.message import DeadLetter, Message
from tests.contract.sites import BrokerSite
from tests.polling import eventually

KEEP = Retention(dead_letters=3, dead_seconds=3600, revoked=3, announced=4)


def letter(n: int, age: float = 0.0) -> DeadLetter:
    message = Message({"task": "t", "id": f"id-{n}"}, b"[]", routing_key="q")
    return DeadLetter(f"letter-{n}", "q", f"reason {n}", time.time() - age + n / 1000, message)


@dataclass
class Kept:
    broker: Broker
    site: BrokerSite

    async def reasons(self) -> list[str]:
        return [one.reason for one in await self.broker.dead()]


@pytest.fixture
async def kept(site: BrokerSite) -> AsyncIterator[Kept]:
    if site.url.startswith("amqp"):
        pytest.skip("its records are queues of the broker's, with bounds of their own")
    broker = open_broker(BrokerConfig(site.url, options=site.options, retention=KEEP))
    await broker.open()
    yield Kept(broker, site)
    await broker.close()


async def test_of_too_many_dead_letters_the_oldest_make_room(kept: Kept) -> None:
    for n in range(6):
        await kept.broker.bury([letter(n)])
    assert await kept.reasons() == ["reason 5", "reason 4", "reason 3"]


async def test_letters_of_rejected_messages_are_counted_too(kept: Kept) -> None:
    consumer = await kept.broker.consume(["q"], prefetch=10)
    await kept.broker.publish(
        [Message({"task": "t", "id": str(n)}, b"[]", routing_key="q") for n in range(5)]
    )
    taken = 0
    while taken < 5:
        batch = await consumer.receive(10)
        await consumer.settle(reject=[(one, f"reason {taken + at}") for at, one in enumerate(batch)])
        taken += len(batch)
    assert len(await kept.reasons()) == 3


async def test_expired_dead_letters_are_deleted_not_hidden(kept: Kept) -> None:
    await kept.broker.bury([letter(1, age=4000), letter(2, age=10)])
    assert await kept.reasons() == ["reason 2"]
    longer = BrokerConfig(kept.site.url, options=kept.site.options, retention=Retention(dead_seconds=None))
    patient = open_broker(longer)
    await patient.open()
    assert [one.reason for one in await patient.dead()] == ["reason 2"]
    await patient.close()


async def test_of_too_many_revoked_ids_those_that_end_first_make_room(kept: Kept) -> None:
    ids = [f"id-{n}" for n in range(6)]
    now = time.time()
    for n, task_id in enumerate(ids):
        await kept.broker.revoke([task_id], now + 1000 - n)
    assert set(await kept.broker.revoked(ids)) == {"id-0", "id-1", "id-2"}


async def test_revoking_again_for_less_long_changes_nothing(kept: Kept) -> None:
    await kept.broker.revoke(["a"], time.time() + 1000)
    await kept.broker.revoke(["a"], time.time() - 1)
    assert set(await kept.broker.revoked(["a"])) == {"a"}


@pytest.mark.usefixtures("able")
async def test_of_what_is_announced_to_a_slow_listener_the_oldest_makes_room(kept: Kept) -> None:
    exchange = Exchange(kept.site.rename("slow"), "fanout")
    listener = await kept.broker.bus.listen(Inbox(kept.site.rename("inbox"), exchange))
    assert isinstance(listener, Arrivals)
    for n in range(9):
        await kept.broker.bus.announce(exchange, [Message({"n": n}, b"{}", routing_key="")])
    await eventually(lambda: listener._waiting and listener._waiting[-1].headers["n"] == 8)
    assert [one.headers["n"] for one in await listener.receive()] == [5, 6, 7, 8]


# == topics


TOPICS = [
    ("a.#", "a", True),
    ("a.#", "a.b.c", True),
    ("#.z", "z", True),
    ("a.*", "a", False),
    ("a.*", "a.b", True),
    ("a.*", "a.b.c", False),
    ("a.#.z", "a.z", True),
    ("a.#", "ab", False),
]


@pytest.mark.parametrize(("pattern", "key", "fits"), TOPICS)
async def test_queues_are_bound_by_the_rule_of_amqp(
    site: BrokerSite,
    pattern: str,
    key: str,
    fits: bool,  # noqa: FBT001 - a parametrised value
) -> None:
    exchange, bound, sink = site.rename("topics"), site.rename("bound"), site.rename("sink")
    queues = [Queue(bound, exchange, "topic", pattern), Queue(sink, exchange, "topic", "#")]

    def declared(name: str) -> Queue:
        return next((queue for queue in queues if queue.name == name), Queue(name))

    config = BrokerConfig(site.url, options=site.options, queue=declared, queues=lambda: queues)
    broker = open_broker(config)
    await broker.open()
    consumers = [await broker.consume([bound], prefetch=5), await broker.consume([sink], prefetch=5)]
    for consumer in consumers:
        await consumer.close()
    await broker.publish([Message({"id": "1", "task": "t"}, b"[]", exchange=exchange, routing_key=key)])
    assert await eventually(lambda: broker.size(sink)) == 1
    assert await broker.size(bound) == int(fits)
    for queue in (bound, sink):
        await broker.purge(queue)
    await broker.close()


@pytest.mark.usefixtures("able")
@pytest.mark.parametrize(("pattern", "key", "fits"), TOPICS)
async def test_listeners_are_bound_by_it_too(
    site: BrokerSite,
    pattern: str,
    key: str,
    fits: bool,  # noqa: FBT001 - a parametrised value
) -> None:
    broker = open_broker(BrokerConfig(site.url, options=site.options))
    await broker.open()
    exchange = Exchange(site.rename("announced"), "topic")
    listener = await broker.bus.listen(Inbox(site.rename("inbox"), exchange, pattern))
    last = await broker.bus.listen(Inbox(site.rename("last"), exchange, "#"))
    await broker.bus.announce(exchange, [Message({"n": 1}, b"{}", routing_key=key)])
    assert [one.headers["n"] for one in await last.receive()] == [1]
    await broker.bus.announce(
        exchange, [Message({"n": 2}, b"{}", routing_key=pattern.replace("#", "y").replace("*", "y"))]
    )
    heard: Sequence[int] = ()
    while 2 not in heard:
        heard = [*heard, *(one.headers["n"] for one in await listener.receive())]
    assert heard == ([1, 2] if fits else [2])
    await broker.close()
