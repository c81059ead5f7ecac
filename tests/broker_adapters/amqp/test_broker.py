"""What only RabbitMQ asks of its adapter; what every broker must do is in tests/contract."""

import asyncio
import functools
import json
import logging
from itertools import count
from time import time
from typing import Any

import aio_pika
import pamqp.frame
import pytest
from pamqp import commands
from yarl import URL

from taskq.broker_adapters.amqp import delay as amqp_delay
from taskq.broker_adapters.amqp import holds as amqp_holds
from taskq.broker_adapters.amqp.broker import AmqpBroker
from taskq.broker_adapters.amqp.codec import FRAME_MAX, FRAME_OVERHEAD, write_properties
from taskq.broker_adapters.amqp.consumer import AmqpConsumer
from taskq.broker_adapters.amqp.delay import DELIVERY, LEVELS, Level, delayed_key, entry, levels, plain_key
from taskq.broker_adapters.amqp.held import Runs
from taskq.broker_adapters.amqp.link import ended
from taskq.errors import (
    BrokerFull,
    ConnectionLost,
    EncodeError,
    OperationalError,
    PublishErrors,
    Unroutable,
)
from taskq.seams.broker import BrokerConfig, Queue
from taskq.wire.message import DeadLetter, Message
from tests.broker_adapters.amqp.parts import Open, ids, message, take
from tests.polling import LONG_ENOUGH, eventually
from tests.rabbit import close_connections, rabbitmqctl

pytestmark = pytest.mark.rabbitmq
needs_control = pytest.mark.usefixtures("controlled")

# == publishing


async def test_what_no_queue_takes_is_an_error_and_the_others_are_safe(open_broker: Open, queue: str) -> None:
    broker = await open_broker(queue=lambda name: Queue(name, auto_delete=name.startswith("gone")))
    with pytest.raises(PublishErrors) as caught:
        await broker.publish([message(queue, 0), message("gone"), message(queue, 1), message("gone too")])
    assert set(caught.value.failures) == {1, 3}
    assert {type(error) for error in caught.value.failures.values()} == {Unroutable}
    assert await broker.size(queue) == 2
    with pytest.raises(Unroutable, match="'gone'"):
        await broker.publish([message("gone")])


def bottomless() -> dict[str, Any]:
    deep: dict[str, Any] = {}
    for _ in range(600):
        deep = {"d": deep}
    return deep


@pytest.mark.parametrize(
    "headers",
    [{"x": "a" * 140_000}, {"x": "half \ud800"}, {"x": bottomless()}, {1: "x"}, {"k" * 256: 1}, {"n": 2**70}],
    ids=["large", "half", "deep", "key", "long", "number"],
)
async def test_headers_that_amqp_cannot_carry_harm_nobody_else(
    open_broker: Open, queue: str, headers: dict[Any, Any]
) -> None:
    """Too large a header frame made the server close the connection; others left the confirms miscounted."""
    broker = await open_broker()
    bad = message(queue, 1)
    bad.headers |= headers
    with pytest.raises(EncodeError):
        await broker.publish([message(queue, 0), bad, message(queue, 2)])
    await broker.publish([message(queue, 3), message(queue, 4)])
    await broker.publish([message(queue, 5)])
    consumer = await broker.consume([queue], prefetch=10)
    assert ids(await take(consumer, 3)) == ["id-3", "id-4", "id-5"]


async def test_what_cannot_be_written_again_is_put_away_without_its_headers(
    open_broker: Open, queue: str
) -> None:
    """Headers that fill their frame leave no room for a mark of ours."""
    broker = await open_broker()
    room = FRAME_MAX - FRAME_OVERHEAD - 20
    if not broker._sender.link.config.options["codec"]:
        room -= 33  # the driver's message id
    full = [message(queue, n) for n in range(3)]
    for one in full[:2]:
        one.headers["x"] = ""
        one.headers["x"] = "a" * (room - len(write_properties(one, FRAME_MAX)))
    await broker.publish(full)
    consumer = await broker.consume([queue], prefetch=10)
    first, second, third = await take(consumer, 3)
    await consumer.settle(reject=[(first, "no such task")])
    await consumer.park([(second, time() + 1), (third, time() + 1)])
    assert ids(await take(consumer, 1)) == ["id-2"]
    reasons = {letter.reason[:16]: letter for letter in await broker.dead()}
    assert set(reasons) == {"no such task", "cannot be kept u"}
    assert {letter.message.body for letter in reasons.values() if letter.message} == {b"[[], {}, {}]"}
    assert await broker.size(queue) == 0


async def test_an_unknown_exchange_is_an_error_and_the_channel_goes_on(open_broker: Open, queue: str) -> None:
    broker = await open_broker()
    with pytest.raises(PublishErrors) as caught:
        await broker.publish([message(queue), message(queue, exchange="no such exchange")])
    assert set(caught.value.failures) == {1}
    await broker.publish([message(queue)])
    assert await broker.size(queue) == 2


async def test_a_queue_that_was_deleted_is_declared_again(open_broker: Open, vhost: str, queue: str) -> None:
    broker = await open_broker()
    await broker.publish([message(queue)])
    async with await aio_pika.connect(vhost) as connection:
        await (await connection.channel()).queue_delete(queue)
    await broker.publish([message(queue, 1), message(queue, 2)])
    assert await broker.size(queue) == 2


async def test_an_exchange_that_was_deleted_costs_one_try(open_broker: Open, vhost: str, queue: str) -> None:
    """Ours is declared again, another's is an error of its own messages; every publish closed the channel."""
    broker = await open_broker(queues=lambda: [Queue(queue)])
    other = f"other-{queue}"

    async def sent(one: Message) -> bool:
        try:
            await broker.publish([one])
        except Unroutable:
            raise
        except OperationalError:
            return False
        return True

    async with await aio_pika.connect(vhost) as connection:
        channel = await connection.channel()
        await broker.publish([message(queue, 1, exchange=queue)])
        theirs = await channel.declare_exchange(other, "fanout")
        await (await channel.get_queue(queue)).bind(theirs)
        await broker.publish([message("k", 2, exchange=other)])
        for name in (queue, other):
            await channel.exchange_delete(name)
        await eventually(lambda: sent(message(queue, 3, exchange=queue)))
        with pytest.raises(Unroutable, match=other):
            await eventually(lambda: sent(message("k", 4, exchange=other)))
        await broker.publish([message(queue, 5)])
    assert await broker.size(queue) == 4


async def test_a_full_queue_refuses(open_broker: Open, queue: str) -> None:
    limits = {"x-max-length": 2, "x-overflow": "reject-publish"}
    broker = await open_broker(queue=lambda name: Queue(name, arguments=limits))
    await broker.publish([message(queue, 0), message(queue, 1)])
    with pytest.raises(BrokerFull, match="full"):
        await broker.publish([message(queue, 2)])


async def test_hundreds_share_the_channel(open_broker: Open, queue: str) -> None:
    broker = await open_broker()
    await asyncio.gather(*(broker.publish([message(queue, n)]) for n in range(500)))
    await broker.publish([message(queue, n) for n in range(1500)])
    assert await broker.size(queue) == 2000


async def test_topic_and_fanout_queues_are_declared_by_who_publishes(open_broker: Open, queue: str) -> None:
    exchange = f"x-{queue}"
    known = [
        Queue(f"{queue}.eu", exchange, "topic", "*.eu"),
        Queue(f"{queue}.all", exchange, "topic", "#"),
    ]
    broker = await open_broker(queues=lambda: known, queue=lambda name: {q.name: q for q in known}[name])
    await broker.publish([message("paris.eu", exchange=exchange), message("tokyo.asia", exchange=exchange)])
    assert (await broker.size(f"{queue}.eu"), await broker.size(f"{queue}.all")) == (1, 2)


# == declarations


async def test_declared_as_celery_declares(open_broker: Open, vhost: str, queue: str) -> None:
    """wire-format.md 3.2: neither side meets PRECONDITION_FAILED."""
    async with await aio_pika.connect(vhost) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange(queue, "direct", durable=True)
        theirs = await channel.declare_queue(queue, durable=True, arguments={"x-max-priority": 10})
        await theirs.bind(exchange, queue)
        broker = await open_broker(queue=lambda name: Queue(name, arguments={"x-max-priority": 10}))
        await broker.publish([message(queue)])
        assert (
            await channel.declare_queue(queue, durable=True, arguments={"x-max-priority": 10})
        ).declaration_result.message_count == 1


async def test_a_queue_declared_otherwise_is_used_as_it_is(
    open_broker: Open, vhost: str, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with await aio_pika.connect(vhost) as connection:
        await (await connection.channel()).declare_queue(queue, durable=True, arguments={"x-max-length": 5})
    broker = await open_broker()
    consumer = await broker.consume([queue], prefetch=5)
    await broker.publish([message(queue)])
    assert ids(await take(consumer, 1)) == ["id-0"]
    assert "used as it is" in caplog.text


async def test_quorum_queues(open_broker: Open, queue: str) -> None:
    broker = await open_broker(queue=lambda name: Queue(name, arguments={"x-queue-type": "quorum"}))
    await broker.publish([message(queue, n) for n in range(3)])
    consumer = await broker.consume([queue], prefetch=10)
    held = await take(consumer, 3)
    await consumer.settle(ack=held[:1], requeue=held[1:])
    again = await take(consumer, 2)
    assert {(delivery.redelivered, delivery.deaths) for delivery in again} == {(True, 0)}
    await consumer.settle(ack=again)
    assert await broker.size(queue) == 0


# == delays


def test_the_delayed_topology_is_celerys() -> None:
    """wire-format.md 3.6."""
    made = list(levels("quorum"))
    assert [level.name for level in made] == [f"celery_delayed_{n}" for n in range(LEVELS)]
    assert made[0].passes_to == "celery_delayed_delivery"
    assert made[0].waits == "*." * 27 + "1.#"
    assert (made[27].waits, made[27].skips, made[27].passes_to) == ("1.#", "0.#", "celery_delayed_26")
    assert made[27].arguments == {
        "x-queue-type": "quorum",
        "x-overflow": "reject-publish",
        "x-message-ttl": 134217728000,
        "x-dead-letter-exchange": "celery_delayed_26",
        "x-dead-letter-strategy": "at-least-once",
    }
    assert "x-dead-letter-strategy" not in next(levels("classic")).arguments


def test_delayed_keys() -> None:
    assert delayed_key(5.9, "gq") == "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.1.gq"
    assert delayed_key(10.0**12, "q") == "1." * 28 + "q"
    assert plain_key(delayed_key(77, "a.b")) == "a.b"
    for key in ("celery", "1." * 27 + "x", "0" * 60, "", "1." * 28):
        assert plain_key(key) == key


def waits_on_the_way(exchange: str, seconds: int) -> list[int]:
    """The delays (TTL, ms) through which the declared topology leads a message from this exchange to its delivery."""
    by_exchange = {level.name: level for level in levels("quorum")}
    words = delayed_key(seconds, "gq").split(".")

    def matches(pattern: str) -> bool:
        parts = pattern.removesuffix(".#").split(".")
        return all(part in {"*", word} for part, word in zip(parts, words, strict=False))

    def waits(level: Level) -> list[int]:
        assert matches(level.waits) != matches(level.skips)
        return [level.arguments["x-message-ttl"]] if matches(level.waits) else []

    found = []
    while exchange != DELIVERY:
        level = by_exchange[exchange]
        found += waits(level)
        exchange = level.passes_to
    return found


@pytest.mark.parametrize("seconds", [1, 2, 3, 40, 63, 64, 86_400, 2**27, 2**28 - 1])
def test_the_short_way_into_the_delays_is_the_same_way(seconds: int) -> None:
    way = waits_on_the_way(entry(seconds), seconds)
    assert way == waits_on_the_way("celery_delayed_27", seconds)
    assert sum(way) == seconds * 1000
    assert entry(seconds) == f"celery_delayed_{(way[0] // 1000).bit_length() - 1}"  # where it waits first


def test_longer_delays_than_there_are_levels() -> None:
    assert entry(10.0**12) == "celery_delayed_27"


@needs_control
async def test_a_thousand_delayed_messages_at_once_are_confirmed_in_time(
    open_broker: Open, queue: str
) -> None:
    """Confirms come when the broker has routed all that was sent before: that must not take as long as its silence may."""
    broker = await open_broker()
    due = time() + 86_000
    await broker.publish([message(queue, number, due=due) for number in range(1000)])


async def test_far_messages_wait_in_the_broker(open_broker: Open, queue: str) -> None:
    """Also for a queue whose name ends like another's: only the one that was meant gets it."""
    broker = await open_broker()
    consumer = await broker.consume([queue, f"x.{queue}"], prefetch=10)
    due = time() + 3.3
    await broker.publish([message(f"x.{queue}", 1, due=due), message(queue, 2)])
    assert ids(await take(consumer, 1)) == ["id-2"]
    assert await broker.size(f"x.{queue}") == 0
    (delivery,) = await take(consumer, 1)
    assert due <= time() < due + 1.5
    assert (delivery.message.exchange, delivery.message.routing_key) == ("", f"x.{queue}")
    assert not [name for name in delivery.message.headers if name.startswith("x-")]


async def test_messages_celery_delayed_arrive_plain(open_broker: Open, vhost: str, queue: str) -> None:
    """A Celery client sends to the topology for topic queues; what arrives can be published again."""
    declared = Queue(queue, queue, "topic", queue, {"x-queue-type": "quorum"})
    broker = await open_broker(queue=lambda _: declared, queues=lambda: [declared])
    await broker.publish([message(queue, 1, exchange=queue, due=time() + 3)])
    consumer = await broker.consume([queue], prefetch=10)
    (delivery,) = await take(consumer, 1)
    assert (delivery.message.exchange, delivery.message.routing_key) == (queue, queue)
    async with await aio_pika.connect(vhost) as connection:
        exchange = await (await connection.channel()).get_exchange("celery_delayed_27")
        theirs = aio_pika.Message(b"[[], {}, {}]", headers={"task": "t", "id": "theirs"}, delivery_mode=2)
        await exchange.publish(theirs, delayed_key(1, queue))
    (delivery,) = await take(consumer, 1)
    assert ids([delivery]) == ["theirs"]
    assert (delivery.message.exchange, delivery.message.routing_key) == (queue, queue)
    assert set(delivery.message.headers) == {"task", "id"}
    await consumer.settle(ack=[delivery])


# == connections


@needs_control
async def test_reconnects_and_goes_on(open_broker: Open, vhost: str, queue: str) -> None:
    broker = await open_broker(name="reconnects")
    consumer = await broker.consume([queue], prefetch=10)
    await broker.publish([message(queue, n) for n in range(3)])
    held = await take(consumer, 3)
    before = consumer._session
    assert await close_connections(vhost, "reconnects") == 2
    await eventually(
        lambda: consumer._session is not before and all(map(consumer._session.has, held)), within=LONG_ENOUGH
    )
    assert list(await consumer.renew(held)) == []  # what came again belongs to the runs that went on
    await consumer.settle(ack=held[:1], requeue=held[1:2], reject=[(held[2], "no good")])
    (again,) = await take(consumer, 1)
    assert (ids([again]), again.redelivered, again.deaths) == (["id-1"], True, 0)
    await consumer.settle(ack=[again])
    await broker.publish([message(queue, 9)])
    assert ids(await take(consumer, 1)) == ["id-9"]
    assert [letter.reason for letter in await broker.dead()] == ["no good"]
    assert await broker.size(queue) == 0


async def test_what_has_ended_while_its_connection_was_gone_is_not_run_again(
    open_broker: Open, queue: str
) -> None:
    broker = await open_broker()
    consumer = await broker.consume([queue], prefetch=10)
    await broker.publish([message(queue, 1)])
    (held,) = await take(consumer, 1)
    before = consumer._session
    consumer._link.tap.abort()
    await eventually(lambda: before.channel is not None and before.channel.closed)
    await consumer.settle(ack=[held])
    await broker.publish([message(queue, 2)])
    assert ids(await take(consumer, 1)) == ["id-2"]
    await consumer.close()
    heir = await broker.consume([queue], prefetch=10)
    assert ids(await take(heir, 1)) == ["id-2"]
    assert not heir._session.held.keys() - {1}


async def drain(broker: AmqpBroker, queue: str, seen: set[str]) -> None:
    consumer = await broker.consume([queue], prefetch=50)
    while batch := await consumer.receive(50):
        seen.update(ids(batch))
        await consumer.settle(ack=batch)


@needs_control
async def test_nothing_confirmed_is_lost_while_connections_break(
    open_broker: Open, vhost: str, queue: str
) -> None:
    broker, reader = await open_broker(name="breaks"), await open_broker(name="reads")
    confirmed: set[str] = set()
    seen: set[str] = set()
    done = asyncio.Event()

    async def send() -> None:
        for n in count():
            batch = [message(queue, 10 * n + k) for k in range(10)]
            try:
                await broker.publish(batch)
            except OperationalError:
                continue
            confirmed.update(m.headers["id"] for m in batch)
            if done.is_set():
                return

    receiving, sending = asyncio.ensure_future(drain(reader, queue, seen)), asyncio.ensure_future(send())

    async def some_more() -> None:
        before = len(confirmed)
        await eventually(lambda: len(confirmed) > before + 50)

    for _ in range(2):
        await some_more()
        assert await close_connections(vhost) > 0
    await some_more()
    done.set()
    await sending
    await eventually(lambda: confirmed <= seen)
    await reader.close()
    await receiving


async def test_a_deleted_queue_is_declared_and_consumed_again(
    open_broker: Open, vhost: str, queue: str
) -> None:
    broker = await open_broker()
    consumer = await broker.consume([queue], prefetch=5)
    async with await aio_pika.connect(vhost) as connection:
        await (await connection.channel()).queue_delete(queue)
    await broker.publish([message(queue, 1)])
    assert ids(await take(consumer, 1)) == ["id-1"]


async def test_an_outage_is_told_once_and_without_the_drivers_tracebacks(
    open_broker: Open, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Both of its connections are lost."""
    caplog.set_level(logging.INFO, "taskq.amqp")
    broker = await open_broker()
    await broker.consume([queue], prefetch=5)
    links = broker._publishing, broker._consuming
    for link in links:
        link.tap.abort()
    await eventually(lambda: "connected to" in caplog.text)
    said = [record for record in caplog.records if record.message.startswith("connect")]
    assert [(record.name, record.exc_info) for record in said] == [("taskq.amqp", None)] * 2
    assert [record.message.endswith("connecting again") for record in said] == [True, False]


async def test_the_next_url_is_tried(vhost: str) -> None:
    broker = AmqpBroker(BrokerConfig(f"amqp://127.0.0.1:1//;{vhost}", timeout=2))
    await broker.open()
    await broker.close()


async def test_a_vhost_that_is_not_there_is_told_in_words(vhost: str) -> None:
    broker = AmqpBroker(BrokerConfig(str(URL(vhost).with_path("/no-such-vhost")), timeout=5))
    with pytest.raises(ConnectionLost, match="the vhost does not exist, or this user may not use it"):
        await broker.open()


async def test_a_refused_login_says_so(vhost: str) -> None:
    url = vhost.replace("guest:guest", "guest:s3cret")
    broker = AmqpBroker(BrokerConfig(url, timeout=5))
    with pytest.raises(ConnectionLost, match="password") as caught:
        await broker.open()
    assert "s3cret" not in str(caught.value)


# == deaths


def perish(broker: AmqpBroker, consumer: AmqpConsumer) -> None:
    """Leave as a killed process does: sockets end, nobody does anything any more."""
    assert broker._consuming._keeper is not None
    for task in (*consumer._tasks, broker._consuming._keeper):
        task.cancel()
    broker._consuming.tap.abort()


@needs_control
async def test_only_the_blamed_one_comes_to_its_third_death(open_broker: Open, queue: str) -> None:
    """Five messages are in the hands of each worker that dies; the first one was blamed whenever it had deaths."""
    sender = await open_broker()
    await sender.publish([message(queue, n) for n in range(5)])
    deaths = []
    for _ in range(3):
        victim = await open_broker()
        consumer = await victim.consume([queue], prefetch=10)
        held = await take(consumer, 5)
        deaths.append([delivery.deaths for delivery in held])
        assert ids(held)[0] == "id-0"
        if held[0].deaths:
            await consumer.strike(held[0])
        perish(victim, consumer)
    assert deaths == [[0] * 5, [1] * 5, [2, 1, 1, 1, 1]]
    consumer = await (await open_broker()).consume([queue], prefetch=10)
    held = await take(consumer, 5)
    assert [delivery.deaths for delivery in held] == [3, 1, 1, 1, 1]
    await consumer.strike(held[1])
    await consumer.strike(held[1], -1)
    await consumer.settle(reject=[(held[0], "killed 3 workers")], requeue=held[1:])
    again = await take(consumer, 4)
    assert {delivery.deaths for delivery in again} == {1}
    (letter,) = await sender.dead()
    assert letter.reason == "killed 3 workers"


@needs_control
async def test_blame_stays_on_a_run_that_goes_on_through_a_lost_connection(
    open_broker: Open, queue: str
) -> None:
    sender = await open_broker()
    await sender.publish([message(queue)])
    for deaths in (0, 1, 2):
        victim = await open_broker()
        consumer = await victim.consume([queue], prefetch=1)
        (held,) = await take(consumer, 1)
        assert held.deaths == deaths
        if deaths:
            await consumer.strike(held)
        before = consumer._session
        consumer._link.tap.abort()
        await eventually(lambda: consumer._session is not before and consumer._session.has(held))  # noqa: B023 - waited for at once
        await eventually(lambda: consumer._deaths.of(held) == deaths + 1)  # noqa: B023 - waited for at once
        await victim.publish([message(f"{queue}-other")])  # after what was written down
        perish(victim, consumer)
    (held,) = await take(await (await open_broker()).consume([queue], prefetch=1), 1)
    assert held.deaths == 3


@needs_control
async def test_one_given_back_in_good_order_may_die_later(open_broker: Open, queue: str) -> None:
    sender = await open_broker()
    await sender.publish([message(queue)])
    consumer = await sender.consume([queue], prefetch=1)
    for _ in range(3):
        (held,) = await take(consumer, 1)
        await consumer.settle(requeue=[held])
    await consumer.close()
    victim = await open_broker()
    consumer = await victim.consume([queue], prefetch=1)
    (held,) = await take(consumer, 1)
    assert (held.redelivered, held.deaths) == (True, 0)
    perish(victim, consumer)
    (held,) = await take(await (await open_broker()).consume([queue], prefetch=1), 1)
    assert held.deaths == 1


@needs_control
async def test_a_lost_connection_takes_blame_back(
    open_broker: Open, vhost: str, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes again after it is nobody's, as if another worker had got it."""
    monkeypatch.setattr(Runs, "lose", lambda *_: None)
    sender = await open_broker()
    await sender.publish([message(queue)])
    victim = await open_broker()
    consumer = await victim.consume([queue], prefetch=1)
    await take(consumer, 1)
    perish(victim, consumer)
    consumer = await (await open_broker(name="survives")).consume([queue], prefetch=1)
    for _ in range(3):
        (held,) = await take(consumer, 1)
        assert held.deaths == 1
        await consumer.strike(held)
        assert await close_connections(vhost, "survives") == 2
    (held,) = await take(consumer, 1)
    assert held.deaths == 1


# == queues with rules of their own


async def test_a_delivery_limit_drops_nothing_that_is_given_back(open_broker: Open, queue: str) -> None:
    """20 is the default of RabbitMQ 4; here it is asked for, so that older ones show it, too."""
    limit = {"x-queue-type": "quorum", "x-delivery-limit": 20}
    broker = await open_broker(queue=lambda name: Queue(name, arguments=limit if name == queue else {}))
    sent = message(queue)
    await broker.publish([sent])
    consumer = await broker.consume([queue], prefetch=1)
    for turn in range(45):
        (held,) = await take(consumer, 1)
        assert (held.deaths, held.message, held.redelivered) == (0, sent, turn > 0)
        await consumer.settle(requeue=[held])
    (held,) = await take(consumer, 1)
    await consumer.settle(ack=[held])
    assert list(await broker.dead()) == []


@needs_control
async def test_looking_at_dead_letters_and_records_does_not_wear_them_out(
    open_broker: Open, vhost: str, queue: str
) -> None:
    """As RabbitMQ 4 does by default with quorum queues: what was delivered 20 times is dropped."""
    quorum = Queue(queue, arguments={"x-queue-type": "quorum"})
    limited = json.dumps({"delivery-limit": 20})
    space = f"worn-{queue}"
    rabbitmqctl("set_policy", "-p", URL(vhost).path[1:], space, f"^{space}", limited, "--apply-to", "queues")
    made = {"queues": lambda: [quorum], "options": {"namespace": space}}
    broker = await open_broker(**made)
    letters = [DeadLetter(str(n), queue, "no good", float(n), message(queue, n)) for n in range(3)]
    await broker.bury(letters)
    await broker.revoke(["a"], time() + 600)
    for _ in range(30):
        assert [letter.id for letter in await broker.dead()] == ["2", "1", "0"]
        broker._revocations._log._tap = None  # as one that has just started
        assert await broker.revoked(["a"]) == ["a"]
    assert list(await broker.revive(["1"])) == [letters[1]]
    assert [letter.id for letter in await broker.dead()] == ["2", "0"]


async def test_rejected_messages_go_to_the_dead_letter_exchange_of_their_queue(
    open_broker: Open, queue: str
) -> None:
    theirs, missing = f"{queue}-theirs", f"{queue}-missing"
    arguments = {
        queue: {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": theirs},
        missing: {"x-dead-letter-exchange": f"{queue}-no-such-exchange"},
    }
    broker = await open_broker(queue=lambda name: Queue(name, arguments=arguments.get(name, {})))
    await broker.publish([message(queue, 1), message(missing, 2)])
    consumer = await broker.consume([queue, missing], prefetch=10)
    held = await take(consumer, 2)
    await consumer.settle(reject=[(delivery, "no good") for delivery in held])
    (dead,) = await take(await broker.consume([theirs], prefetch=1), 1)
    assert (ids([dead]), dead.message.headers["x-taskq-reason"]) == (["id-1"], "no good")
    (letter,) = await broker.dead()
    assert (letter.queue, letter.reason) == (missing, "no good")


async def test_a_revocation_reaches_those_who_listen(open_broker: Open) -> None:
    first, second = await open_broker(), await open_broker()
    assert not await second.revoked(["a"])
    await first.revoke(["a"], time() + 60)

    async def told() -> bool:
        return bool(await second.revoked(["a"]))

    await eventually(told)


# == a server that is full, or silent


async def test_a_blocked_server_is_full_within_the_timeout(open_broker: Open, queue: str) -> None:
    """connection.blocked and .unblocked as RabbitMQ sends them when it runs out of memory or disk."""
    broker = await open_broker(timeout=0.3)
    await broker.publish([message(queue)])
    tap = broker._publishing.tap
    blocked = pamqp.frame.marshal(commands.Connection.Blocked("low on memory"), 0)
    unblocked = pamqp.frame.marshal(commands.Connection.Unblocked(), 0)
    tap.feed(blocked)
    with pytest.raises(BrokerFull, match="low on memory") as caught:
        await broker.publish([message(queue)])
    assert not caught.value.maybe_accepted
    again = asyncio.ensure_future(broker.publish([message(queue)]))
    await asyncio.wait([again], timeout=0.15)
    assert isinstance(again.exception(), BrokerFull)  # at once: the timeout began with the blocking
    tap.feed(unblocked + blocked)
    waiting = asyncio.ensure_future(broker.publish([message(queue)]))
    await asyncio.sleep(0)
    tap.feed(unblocked)
    await waiting
    assert await broker.size(queue) == 2


class Proxy:
    """Stands between a broker and its client; `silent` swallows everything and closes nothing."""

    def __init__(self, url: str) -> None:
        self._target = URL(url)
        self.silent = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return str(self._target.with_host("127.0.0.1").with_port(port))

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._target.host, self._target.port)
        pumps = [self._pump(reader, back), self._pump(there, writer)]
        self._tasks.update(asyncio.ensure_future(pump) for pump in pumps)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                if not self.silent:
                    sink.write(data)
        finally:
            sink.close()


async def test_a_silent_server_is_noticed_and_left(open_broker: Open, vhost: str, queue: str) -> None:
    proxy = Proxy(vhost)
    broker = await open_broker(url=await proxy.start(), heartbeat=2.0, timeout=1.0)
    consumer = await broker.consume([queue], prefetch=5)
    await broker.publish([message(queue, 1)])
    (held,) = await take(consumer, 1)
    proxy.silent = True
    with pytest.raises(OperationalError) as caught:
        await broker.publish([message(queue, 2)])
    assert caught.value.maybe_accepted

    async def lost() -> bool:
        return list(await consumer.renew([held])) == [held]

    await eventually(lost, within=20)
    with pytest.raises(ConnectionLost):
        await broker.publish([message(queue, 3)])
    proxy.silent = False
    await eventually(lambda: broker._publishing.tap.writer is not None and not broker._publishing.tap.closed)
    again = await take(consumer, 1)
    assert "id-1" in ids(again)
    await proxy.stop()


# == consumer_timeout


@pytest.fixture
def short_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes become fractions of a second."""
    for name, seconds in (("LONG", 0.2), ("REPLACED", 0.1), ("RETURNS", 1.0)):
        monkeypatch.setattr(amqp_holds, name, seconds)


async def unacked(vhost: str, queue: str) -> str:
    listed = await asyncio.to_thread(
        rabbitmqctl, "list_queues", "-p", URL(vhost).path[1:], "name", "messages", "messages_unacknowledged"
    )
    return next(line for line in listed.splitlines() if line.startswith(f"{queue}\t"))


@needs_control
@pytest.mark.usefixtures("short_holds")
async def test_what_is_held_for_long_is_not_held_on_the_channel(
    open_broker: Open, vhost: str, queue: str
) -> None:
    broker = await open_broker()
    consumer = await broker.consume([queue], prefetch=10)
    await broker.publish([message(queue, n) for n in range(4)])
    held = await take(consumer, 4)
    await eventually(lambda: all(delivery in consumer._holds for delivery in held))
    assert await unacked(vhost, queue) == f"{queue}\t0\t0"
    longer_than_a_copy_lives = 2.5
    await asyncio.wait([asyncio.ensure_future(consumer.receive(1))], timeout=longer_than_a_copy_lives)
    assert list(await consumer.renew(held)) == []
    assert await broker.size(queue) == 0
    await consumer.settle(ack=held[:1], requeue=held[1:2], reject=[(held[2], "long and bad")])
    await consumer.close()
    assert [letter.reason for letter in await broker.dead()] == ["long and bad"]
    heir = await broker.consume([queue], prefetch=10)
    again = await take(heir, 2)
    assert (sorted(ids(again)), {delivery.deaths for delivery in again}) == (["id-1", "id-3"], {0})
    await heir.settle(ack=again)
    await heir.close()
    listed = await asyncio.to_thread(rabbitmqctl, "list_queues", "-p", URL(vhost).path[1:], "name")
    assert amqp_delay.PREFIX not in listed


@needs_control
@pytest.mark.usefixtures("short_holds")
@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_what_a_dead_worker_held_for_long_returns(open_broker: Open, queue: str, kind: str) -> None:
    """By a copy that is as safe as its queue."""
    made = {"queue": lambda name: Queue(name, arguments={"x-queue-type": kind})}
    victim, broker = await open_broker(**made), await open_broker(**made)
    consumer = await victim.consume([queue], prefetch=10)
    await victim.publish([message(queue, 1)])
    (held,) = await take(consumer, 1)
    await eventually(lambda: held in consumer._holds)
    perish(victim, consumer)
    heir = await broker.consume([queue], prefetch=10)
    (again,) = await take(heir, 1)
    assert (again.redelivered, again.deaths, again.message.headers) == (True, 1, held.message.headers)
    await heir.settle(ack=[again])


@pytest.mark.usefixtures("short_holds")
async def test_deaths_of_long_runs_are_counted_too(open_broker: Open, queue: str) -> None:
    """Their process dies, not their worker."""
    broker = await open_broker()
    consumer = await broker.consume([queue], prefetch=10)
    sent = message(queue, 1)
    await broker.publish([sent])
    for expected in (0, 1, 2):
        (held,) = await take(consumer, 1)
        assert (held.deaths, held.message) == (expected, sent)
        await eventually(functools.partial(consumer._holds.__contains__, held))
        await consumer.strike(held)
        await consumer.settle(requeue=[held])
    (held,) = await take(consumer, 1)
    assert (held.redelivered, held.deaths) == (True, 3)
    await consumer.settle(ack=[held])


async def test_a_task_that_forgets_a_cancellation_is_ended_all_the_same() -> None:
    """As Python 3.11's wait_for does, in which the driver waits for answers."""
    forgotten = asyncio.Event()

    async def keeper() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            forgotten.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(keeper())
    await asyncio.sleep(0)
    await ended(task)
    assert forgotten.is_set()
    assert task.cancelled()
