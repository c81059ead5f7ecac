"""Not now and never are two things: what can never be taken is `Refused`, alone, and nothing waits for it."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from taskq.broker_adapters.sqlite import store as sqlite_store
from taskq.errors import OperationalError, PublishErrors, Refused, SaveErrors, StoreError
from taskq.seams.broker import Broker, BrokerConfig, open_broker
from taskq.seams.store import ResultStore, StoreConfig, TaskResult, open_store
from taskq.states import FAILURE, SUCCESS
from taskq.wire.message import Message
from tests.contract.sites import BrokerSite, ConnectStore
from tests.polling import eventually
from tests.servers import RedisServer, redis_server

LARGEST = 2000


def message(queue: str, n: int = 0, **fields: Any) -> Message:
    headers = {"task": "t", "id": f"id-{n}", "n": n} | fields.pop("headers", {})
    return Message(headers, fields.pop("body", b"[[], {}, {}]"), routing_key=queue, **fields)


async def received(broker: Broker, queue: str, count: int) -> list[int]:
    consumer = await broker.consume([queue], prefetch=100)
    found: list[int] = []
    async with asyncio.timeout(5):
        while len(found) < count:
            batch = await consumer.receive(100)
            await consumer.settle(ack=batch)
            found += [one.message.headers["n"] for one in batch]
    return sorted(found)


@pytest.fixture
async def bounded(site: BrokerSite) -> AsyncIterator[Broker]:
    config = BrokerConfig(site.url, queue=site.queue, options=site.options, max_message_bytes=LARGEST)
    broker = open_broker(config)
    await broker.open()
    yield broker
    await broker.close()


@pytest.mark.parametrize(
    "large",
    [{"body": b"x" * (LARGEST + 1)}, {"headers": {"x": "y" * (LARGEST + 1)}}],
    ids=["body", "headers"],
)
@pytest.mark.parametrize("once", [None, "name"])
async def test_a_message_that_is_too_large_is_refused_alone(
    bounded: Broker, site: BrokerSite, large: dict[str, Any], once: str | None
) -> None:
    queue = site.rename("sizes")
    with pytest.raises(Refused, match=r"larger than max_message_bytes \(2,000\): send a reference"):
        await bounded.publish([message(queue, once=once, **large)])
    with pytest.raises(PublishErrors) as caught:
        await bounded.publish([message(queue, 1), message(queue, 2, once=once, **large), message(queue, 3)])
    assert [(at, type(error)) for at, error in caught.value.failures.items()] == [(1, Refused)]
    assert await received(bounded, queue, 2) == [1, 3]


async def test_what_writing_adds_is_not_counted(bounded: Broker, site: BrokerSite) -> None:
    """Base64 makes a third more of a body: one that just fits is taken all the same."""
    queue = site.rename("sizes")
    body = bytes(range(256)) * 7
    await bounded.publish([message(queue, 5, body=body, content_encoding="binary")])
    assert await received(bounded, queue, 1) == [5]


async def test_a_queue_without_a_name_takes_nothing(bounded: Broker, site: BrokerSite) -> None:
    queue = site.rename("names")
    with pytest.raises(PublishErrors) as caught:
        await bounded.publish([message("", 1), message(queue, 2)])
    assert [(at, type(error)) for at, error in caught.value.failures.items()] == [(0, Refused)]
    assert await received(bounded, queue, 1) == [2]


# == Redis


@pytest.fixture
async def prefixed(broker_redis: BrokerSite) -> AsyncIterator[tuple[Broker, Redis, str]]:
    broker = open_broker(BrokerConfig(broker_redis.url, options=broker_redis.options))
    await broker.open()
    async with Redis.from_url(broker_redis.url) as client:
        yield broker, client, broker_redis.options["global_keyprefix"]
    await broker.close()


@pytest.mark.redis
@pytest.mark.parametrize("once", [None, "name"])
async def test_on_redis_a_key_of_another_type_is_no_queue(
    prefixed: tuple[Broker, Redis, str], once: str | None
) -> None:
    broker, client, prefix = prefixed
    await client.set(f"{prefix}taken", "an application's own", ex=60)
    with pytest.raises(Refused, match="holds another type of value"):
        await broker.publish([message("taken", once=once)])
    with pytest.raises(PublishErrors) as caught:
        await broker.publish([message("free", 1), message("taken", 2, once=once), message("free", 3)])
    assert [(at, type(error)) for at, error in caught.value.failures.items()] == [(1, Refused)]
    assert await received(broker, "free", 2) == [1, 3]


@pytest.mark.redis
@pytest.mark.parametrize("name", ["unacked", "unacked_index", "taskq:dead", "_kombu.binding.x", "a\x06\x163"])
async def test_on_redis_our_own_keys_are_no_queues(prefixed: tuple[Broker, Redis, str], name: str) -> None:
    broker, client, prefix = prefixed
    with pytest.raises(Refused, match="cannot be the name of a queue on Redis"):
        await broker.publish([message(name)])
    assert await client.exists(f"{prefix}{name}") == 0
    await broker.publish([message("free", 1)])
    assert await received(broker, "free", 1) == [1]


@pytest.fixture
def limited(tmp_path: Path) -> Any:
    """A server whose user `app` may touch all keys but those that begin with `closed`."""
    with redis_server(tmp_path) as server:
        with server.client() as admin:
            admin.execute_command(
                *("ACL", "SETUSER", "app", "on", ">pw", "+@all", "&*", "resetkeys"),
                *("~free*", "~unacked*", "~taskq:*", "~_kombu*", "~celery-task*"),
            )
        yield server


@pytest.mark.redis
@pytest.mark.parametrize("once", [None, "name"])
async def test_on_redis_a_key_that_this_user_may_not_touch_is_refused_alone(
    limited: RedisServer, once: str | None
) -> None:
    url = limited.url.replace("redis://", "redis://app:pw@")
    broker = open_broker(BrokerConfig(url))
    await broker.open()
    with pytest.raises(Refused, match="widen its ACL"):
        await broker.publish([message("closed", once=once)])
    with pytest.raises(PublishErrors) as caught:
        await broker.publish([message("free", 1), message("closed", 2, once=once), message("free", 3)])
    assert [(at, type(error)) for at, error in caught.value.failures.items()] == [(1, Refused)]
    assert await received(broker, "free", 2) == [1, 3]
    await broker.close()


@pytest.mark.redis
@pytest.mark.parametrize("rule", [("-@scripting",), ("resetkeys", "~free*", "~unacked*")])
async def test_on_redis_what_concerns_every_message_is_not_now(
    limited: RedisServer, rule: Sequence[str]
) -> None:
    """A right that was withdrawn from the program as a whole is put right as a password is."""
    url = limited.url.replace("redis://", "redis://app:pw@")
    broker = open_broker(BrokerConfig(url))
    await broker.open()
    with limited.client() as admin:
        admin.execute_command("ACL", "SETUSER", "app", *rule)
    with pytest.raises(OperationalError):
        await broker.publish([message("free", 1)])
    await broker.close()


@pytest.mark.redis
async def test_on_redis_a_right_that_was_withdrawn_is_waited_for(
    limited: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    broker = open_broker(BrokerConfig(limited.url.replace("redis://", "redis://app:pw@")))
    await broker.open()
    consumer = await broker.consume(["free"], prefetch=5)
    waiting = asyncio.ensure_future(consumer.receive(1))
    with limited.client() as admin:
        admin.execute_command("ACL", "SETUSER", "app", "-@scripting")
        await eventually(lambda: "nothing is received until that is put right" in caplog.text)
        assert not waiting.done()
        admin.execute_command("ACL", "SETUSER", "app", "+@scripting")
    await broker.publish([message("free", 7)])
    async with asyncio.timeout(30):
        assert [one.message.headers["n"] for one in await waiting] == [7]
    assert caplog.text.count("nothing is received until that is put right") == 1
    await broker.close()


# == result stores


def success(task_id: Any, value: Any = 1) -> TaskResult:
    return TaskResult(task_id, SUCCESS, value)


@pytest.mark.parametrize("bad", [float("nan"), 7, None, "half\ud800", ["x"]], ids=repr)
async def test_a_result_under_no_id_is_refused_alone(connect_store: ConnectStore, bad: Any) -> None:
    store = await connect_store()
    with pytest.raises(SaveErrors) as caught:
        await store.save([success("a"), success(bad), success("b")])
    assert [(at, type(error)) for at, error in caught.value.failures.items()] == [(1, Refused)]
    assert await store.load(["a", "b"]) == [success("a"), success("b")]


@pytest.mark.parametrize("index", [10**400, 1.5, float("nan"), "2", [1]], ids=lambda index: repr(index)[:8])
async def test_a_part_without_a_place_is_refused_and_the_chord_goes_on(
    connect_store: ConnectStore, index: Any
) -> None:
    store = await connect_store()
    await store.begin_chords({"g": 1})
    with pytest.raises(Refused, match="is no place in a chord"):
        await store.join(TaskResult("a", SUCCESS, 1, group_id="g"), index)
    parts = await store.join(TaskResult("b", SUCCESS, 2, group_id="g"), 0)
    assert parts is not None
    assert [part.value for part in parts] == [2]


@pytest.mark.redis
async def test_on_redis_a_result_whose_key_is_taken_is_refused_alone(
    redis_url: str, connect_redis: ResultStore, redis_prefix: str
) -> None:
    async with Redis.from_url(f"{redis_url}/9") as client:
        await client.lpush(f"{redis_prefix}celery-task-meta-taken", "x")
        await client.set(f"{redis_prefix}celery-taskset-meta-g.j", "x", ex=60)
    with pytest.raises(SaveErrors) as caught:
        await connect_redis.save([success("a"), success("taken"), success("b")])
    assert [(at, type(error)) for at, error in caught.value.failures.items()] == [(1, Refused)]
    assert await connect_redis.load(["a", "b"]) == [success("a"), success("b")]
    await connect_redis.begin_chords({"g": 1})
    with pytest.raises(Refused, match="another type"):
        await connect_redis.join(TaskResult("p", FAILURE, 1, group_id="g"), 0)


@pytest.fixture
def redis_prefix() -> str:
    return f"taskq-test-{uuid.uuid4()}:"


@pytest.fixture
async def connect_redis(redis_url: str, redis_prefix: str) -> AsyncIterator[ResultStore]:
    store = open_store(StoreConfig(f"{redis_url}/9", options={"global_keyprefix": redis_prefix}))
    await store.open()
    yield store
    await store.close()
    async with Redis.from_url(f"{redis_url}/9") as client:
        if keys := [key async for key in client.scan_iter(f"{redis_prefix}*", count=1000)]:
            await client.delete(*keys)


@pytest.mark.redis
async def test_on_redis_results_that_nobody_may_write_are_not_now(limited: RedisServer) -> None:
    store = open_store(StoreConfig(limited.url.replace("redis://", "redis://app:pw@")))
    await store.open()
    await store.save([success("a")])
    with limited.client() as admin:
        admin.execute_command("ACL", "SETUSER", "app", "resetkeys", "~taskq:*")
    with pytest.raises(StoreError) as caught:
        await store.save([success("b"), success("c")])
    assert not isinstance(caught.value, SaveErrors)
    await store.close()


async def test_on_sqlite_a_result_larger_than_a_row_is_refused_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A billion bytes: the bound is lowered, since a test cannot hold that many."""
    monkeypatch.setattr(sqlite_store, "LARGEST", 1000)
    store = open_store(StoreConfig(f"sqlite:///{tmp_path}/x.db"))
    await store.open()
    with pytest.raises(SaveErrors, match="SQLite takes 1 GB") as caught:
        await store.save([success("a"), success("b", "x" * 1000)])
    assert list(caught.value.failures) == [1]
    assert await store.load(["a"]) == [success("a")]
    await store.close()
