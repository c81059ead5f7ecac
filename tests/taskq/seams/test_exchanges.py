import uuid
from pathlib import Path

import pytest

from taskq.errors import PublishErrors, Unroutable
from taskq.seams.broker import Broker, BrokerConfig, Queue, open_broker
from taskq.seams.exchanges import fits
from taskq.wire.message import Message

QUEUES = (
    Queue("feeds", "news", "topic", "feed.#"),
    Queue("short", "news", "topic", "feed.*"),
    Queue("images", "media", "direct", "image"),
    Queue("copies", "media", "direct", "image"),
    Queue("one", "all", "fanout"),
    Queue("two", "all", "fanout", "ignored"),
)


@pytest.mark.parametrize(
    ("pattern", "key", "taken"),
    [
        ("feed.#", "feed", True),
        ("feed.#", "feed.a.b", True),
        ("feed.*", "feed", False),
        ("feed.*", "feed.a", True),
        ("feed.*", "feed.a.b", False),
        ("#.end", "a.b.end", True),
        ("#.end", "a.b.ends", False),
        ("#", "", True),
        ("a.#.z", "a.z", True),
        ("a.*.z", "a.z", False),
        ("feed.x", "feedxx", False),
    ],
)
def test_topics(pattern: str, key: str, taken: bool) -> None:  # noqa: FBT001 - a parametrised value
    assert fits(pattern, key) is taken


@pytest.fixture(params=["memory", "sqlite"])
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Broker:
    url = f"memory://{uuid.uuid4()}" if request.param == "memory" else f"sqlite:///{tmp_path}/x.db"
    found = open_broker(BrokerConfig(url, queues=lambda: QUEUES))
    await found.open()
    return found


@pytest.mark.parametrize(
    ("exchange", "key", "queues"),
    [
        ("", "anything", {"anything"}),
        ("news", "feed.a", {"feeds", "short"}),
        ("news", "feed.a.b", {"feeds"}),
        ("media", "image", {"images", "copies"}),
        ("all", "", {"one", "two"}),
        ("celery", "celery", {"celery"}),
    ],
)
async def test_a_message_goes_to_every_queue_that_is_bound(
    broker: Broker, exchange: str, key: str, queues: set[str]
) -> None:
    sent = Message({"id": "1"}, b"[]", exchange=exchange, routing_key=key)
    await broker.publish([sent])
    consumer = await broker.consume(sorted(queues), prefetch=10)
    received: dict[str, Message] = {}
    while len(received) < len(queues):
        for delivery in await consumer.receive(10):
            received[delivery.queue] = delivery.message
    assert received == dict.fromkeys(queues, sent)
    await broker.close()


async def test_a_named_message_is_published_once_to_each_queue(broker: Broker) -> None:
    for _ in range(2):
        await broker.publish([Message({}, b"", exchange="all", routing_key="", once="name")])
    assert [await broker.size("one"), await broker.size("two")] == [1, 1]
    await broker.close()


async def test_a_message_that_no_queue_takes_is_refused(broker: Broker) -> None:
    lost = Message({}, b"", exchange="news", routing_key="other")
    with pytest.raises(
        Unroutable, match=r"exchange 'news' with routing key 'other': declare one in task_queues"
    ):
        await broker.publish([lost])
    with pytest.raises(PublishErrors) as caught:
        await broker.publish([Message({}, b"", routing_key="safe"), lost])
    assert list(caught.value.failures) == [1]
    assert await broker.size("safe") == 1
    await broker.close()
