"""One message that RabbitMQ will never take harms no other: not on its channel, not on its connection."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any, cast
from unittest.mock import AsyncMock

import aio_pika
import pytest
from yarl import URL

from taskq.broker_adapters.amqp.broker import AmqpBroker
from taskq.errors import ConnectionLost, EncodeError, OperationalError, PublishErrors, Refused
from taskq.seams.broker import Broker, BrokerConfig, Queue
from taskq.seams.publisher import failures_of
from taskq.wire.message import DeadLetter, Message
from tests.broker_adapters.amqp.parts import Open, ids, message, take
from tests.rabbit import rabbitmqctl

pytestmark = pytest.mark.rabbitmq

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "value",
    [INF, -INF, NAN, [1, [NAN]], {"a": {"b": [INF]}}, Decimal("NaN"), Decimal("Infinity"), (NAN,)],
    ids=repr,
)
async def test_numbers_that_are_not_finite_are_refused_before_they_are_sent(
    open_broker: Open, queue: str, value: Any
) -> None:
    """RabbitMQ cannot read them, and closes the connection."""
    broker = await open_broker()
    bad = message(queue, 1)
    bad.headers["x"] = value
    with pytest.raises(EncodeError, match="finite"):
        await broker.publish([message(queue, 0), bad])
    late = message(queue, 2, due=value if isinstance(value, float) else NAN)
    with pytest.raises(EncodeError, match="finite"):
        await broker.publish([message(queue, 0), late])
    await broker.publish([message(queue, 3)])
    assert await broker.size(queue) == 1


#: What can be in a header, however odd: it arrives, or is refused for its own message.
ODD: dict[str, Any] = {
    **{f"text {n}": text for n, text in enumerate(["", "\0", "\r\n", "a" * 60_000, "\ufeff"])},
    **{f"number {n}": number for n, number in enumerate([-1, 2**63 - 1, -(2**63), 1e308, 5e-324, -0.0])},
    **{f"decimal {n}": Decimal(text) for n, text in enumerate(["1E-255", "-1", "1E+20", "0.1"])},
    "none": None,
    "bytes": b"\xff\0",
    "nested": {"": [{}, [], [[]], {"k": {"": None}}]},
}


async def insisted(broker: AmqpBroker, batch: list[Message]) -> dict[int, Exception]:
    """What is refused for good; tried again is what is not taken now, as a worker does."""
    refused: dict[int, Exception] = {}
    left = dict(enumerate(batch))
    while left:
        places = list(left)
        failures = await failures_of(cast("Broker", broker), list(left.values()))
        found = {places[place]: error for place, error in failures.items()}
        refused |= {index: error for index, error in found.items() if not isinstance(error, OperationalError)}
        left = {index: batch[index] for index in found if index not in refused}
    return refused


@pytest.mark.parametrize("name", ["x", "CC", "BCC", "x-death", "x-delay", "x-queue-type", "k" * 255])
async def test_odd_headers_arrive_or_are_refused_alone(open_broker: Open, queue: str, name: str) -> None:
    """`CC` is RabbitMQ's own: one that is no list of names closes the channel."""
    broker = await open_broker()
    batch = [message(queue, n) for n in range(len(ODD) * 2)]
    for one, value in zip(batch[::2], ODD.values(), strict=True):
        one.headers[name] = value
    failures = await insisted(broker, batch)
    assert {type(error) for error in failures.values()} <= {Refused}
    assert not [index for index in failures if index % 2]
    consumer = await broker.consume([queue], prefetch=200)
    wanted = {one.headers["id"] for index, one in enumerate(batch) if index not in failures}
    seen: set[str] = set()
    async with asyncio.timeout(20):
        while not seen >= wanted:  # some may come twice: their confirms went with the channel
            seen.update(ids(await consumer.receive(100)))
    assert seen == wanted


async def sent(broker: AmqpBroker, one: Message, *, patient: bool) -> None:
    """The driver may go on writing to a channel that is closed: then others have to wait for the next connection."""
    while True:
        try:
            return await broker.publish([one])
        except ConnectionLost:
            if not patient:
                raise


@pytest.mark.parametrize("fault", ["header", "exchange", "queue"])
async def test_of_a_batch_only_the_refused_ones_fail(
    open_broker: Open, queue: str, fault: str, request: pytest.FixtureRequest
) -> None:
    broker = await open_broker()
    await broker.publish([message(queue, 0)])
    bad = message(queue, 1)
    if fault == "header":
        bad.headers["CC"] = 5
    elif fault == "exchange":
        bad.exchange = "amq.rabbitmq.trace"  # internal: nobody may publish there
    else:
        bad.routing_key = "amq.foo"
    by_driver = "driver" in request.node.name
    others = [
        asyncio.ensure_future(sent(broker, message(queue, n), patient=by_driver)) for n in range(10, 60)
    ]
    with pytest.raises(PublishErrors) as caught:
        await broker.publish([message(queue, 2), bad, message(queue, 3)])
    assert {index: type(error) for index, error in caught.value.failures.items()} == {1: Refused}
    await asyncio.gather(*others)
    with pytest.raises(Refused, match="refused"):
        await broker.publish([bad])
    consumer = await broker.consume([queue], prefetch=1000)
    wanted = {f"id-{n}" for n in (0, 2, 3, *range(10, 60))}
    seen: set[str] = set()
    async with asyncio.timeout(20):
        while not seen >= wanted:  # some may come twice: their confirms went with the channel
            seen.update(ids(await consumer.receive(100)))
    assert seen == wanted


async def test_a_queue_that_cannot_be_declared_is_refused(open_broker: Open, queue: str) -> None:
    """Not "used as it is": there is none."""
    arguments = {queue: {"x-max-length": -1}, "": {}}
    broker = await open_broker(queue=lambda name: Queue(name, arguments=arguments.get(name, {})))
    for unmakable in (queue, "amq.foo"):
        with pytest.raises(Refused, match="refused"):
            await broker.publish([message(unmakable)])
        with pytest.raises(Refused):
            await broker.consume([unmakable], prefetch=1)


async def test_an_exchange_of_another_kind_leaves_its_queue_usable(
    open_broker: Open, vhost: str, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with await aio_pika.connect(vhost) as connection:
        await (await connection.channel()).declare_exchange(queue, "fanout")
    broker = await open_broker()
    consumer = await broker.consume([queue], prefetch=1)
    await broker.publish([message(queue)])
    assert ids(await take(consumer, 1)) == ["id-0"]
    assert "used as it is" in caplog.text


async def test_a_stream_is_refused_where_it_would_be_consumed(
    open_broker: Open, vhost: str, queue: str
) -> None:
    async with await aio_pika.connect(vhost) as connection:
        channel = await connection.channel()
        await channel.declare_queue(queue, durable=True, arguments={"x-queue-type": "stream"})
    said = {f"{queue}-own": {"x-queue-type": "stream"}}
    broker = await open_broker(queue=lambda name: Queue(name, arguments=said.get(name, {})))
    for stream in (queue, f"{queue}-own"):
        with pytest.raises(Refused, match="is a stream"):
            await broker.consume([stream], prefetch=1)


async def test_a_queue_that_is_refused_leaves_the_others_of_a_consumer_alone(
    open_broker: Open, vhost: str, queue: str
) -> None:
    broker = await open_broker()
    consumer = await broker.consume([queue], prefetch=10)
    await broker.publish([message(queue, 1)])
    (held,) = await take(consumer, 1)
    async with await aio_pika.connect(vhost) as connection:
        theirs = await (await connection.channel()).declare_queue(f"{queue}-theirs", exclusive=True)
        taken = await (await connection.channel()).declare_queue(f"{queue}-taken", durable=True)
        await taken.consume(AsyncMock(), exclusive=True)
        for name in ("amq.foo", theirs.name, taken.name):
            with pytest.raises((Refused, OperationalError)):
                await consumer.subscribe([queue, name])
    assert list(await consumer.renew([held])) == []
    await consumer.settle(ack=[held])
    await broker.publish([message(queue, 2)])
    (held,) = await take(consumer, 1)
    assert not held.redelivered


async def test_a_letter_that_is_refused_is_kept_without_what_is_wrong_with_it(
    open_broker: Open, queue: str
) -> None:
    broker = await open_broker()
    bad = message(queue)
    bad.headers["CC"] = 5
    await broker.bury(
        [DeadLetter("1", queue, "no good", 0.0, bad), DeadLetter("2", queue, "", 0.0, message(queue))]
    )
    letters = {letter.id: letter.message for letter in await broker.dead()}
    assert letters["1"] is not None
    assert (letters["1"].headers, letters["1"].body) == ({}, bad.body)
    assert letters["2"] is not None
    assert letters["2"].headers == message(queue).headers


# == a user who may do little


@pytest.fixture
def restricted(vhost: str, controlled: None) -> Iterator[str]:
    """A user who may publish to the default exchange alone, and declare nothing."""
    name = f"taskq-{uuid.uuid4().hex[:8]}"
    rabbitmqctl("add_user", name, "secret")
    rabbitmqctl("set_permissions", "-p", URL(vhost).path[1:], name, "^$", r"^amq\.default$", "^readable")
    yield str(URL(vhost).with_user(name).with_password("secret"))
    rabbitmqctl("delete_user", name)


@pytest.fixture
async def powerless(restricted: str) -> AsyncIterator[AmqpBroker]:
    broker = AmqpBroker(BrokerConfig(restricted))
    await broker.open()
    yield broker
    await broker.close()


async def test_who_may_declare_nothing_publishes_to_what_is_there(
    open_broker: Open, powerless: AmqpBroker, queue: str
) -> None:
    broker = await open_broker()
    consumer = await broker.consume([queue], prefetch=10)
    missing = f"missing-{queue}"
    theirs = message("k", 3, exchange=queue)
    with pytest.raises(PublishErrors) as caught:
        await powerless.publish([message(queue, 1), message(missing), message(queue, 2), theirs])
    assert {index: type(error) for index, error in caught.value.failures.items()} == {1: Refused, 3: Refused}
    assert "access" in str(caught.value.failures[1])
    assert set(ids(await take(consumer, 2))) == {"id-1", "id-2"}
    with pytest.raises(Refused, match="access"):
        await powerless.consume([queue], prefetch=1)
