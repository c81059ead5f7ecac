"""Options `durable` and `durable_replicas`: what is asked of Redis, and that a short answer is an error."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from taskq.broker_adapters.redis import session as redis_session
from taskq.errors import ConfigError, ConnectionLost, OperationalError
from taskq.seams.broker import Broker, BrokerConfig, open_broker
from taskq.wire.message import Message
from tests.polling import eventually
from tests.proxy import proxy
from tests.servers import RedisServer, redis_server

pytestmark = pytest.mark.redis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path, "--repl-diskless-sync-delay", "0", aof=True) as running:
        yield running


@asynccontextmanager
async def connected(url: str, patience: float = 0.5, **options: Any) -> AsyncIterator[Broker]:
    broker = open_broker(BrokerConfig(url, options=options, timeout=patience))
    try:
        await broker.open()
        yield broker
    finally:
        await broker.close()


def message(task_id: str) -> Message:
    return Message({"task": "t", "id": task_id}, b"[[], {}, {}]", routing_key="q")


class Disk:
    """Between a client and a server: answers WAITAOF in its place with `answer`, and counts."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answer = "{1, 0}"
        self.asked: list[bytes] = []

    def rewrite(self, data: bytes) -> bytes:
        return re.sub(rb"\*4\r\n\$7\r\nWAITAOF\r\n((?:\$\d+\r\n\d+\r\n){3})", self._instead, data)

    def _instead(self, found: re.Match[bytes]) -> bytes:
        self.asked.append(b" ".join(found[1].split(b"\r\n")[1::2]))
        script = f"return {self.answer}".encode()
        return b"*3\r\n$4\r\nEVAL\r\n$%d\r\n%b\r\n$1\r\n0\r\n" % (len(script), script)


@pytest.fixture
async def disk(server: RedisServer) -> AsyncIterator[Disk]:
    async with proxy(server.port) as network:
        disk = Disk(f"redis://127.0.0.1:{network.port}/0")
        network.rewrite = disk.rewrite
        yield disk


async def test_the_disk_is_waited_for_and_a_short_answer_raises(disk: Disk) -> None:
    async with connected(disk.url, durable=True) as broker:
        await broker.publish([message("a")])
        assert disk.asked == [b"1 0 1", b"1 0 500"]  # at the start: is it possible?
        disk.answer = "{0, 0}"
        with pytest.raises(OperationalError, match=r"did not write it to its disk within 0\.5 s") as caught:
            await broker.publish([message("b"), message("c")])
        assert caught.value.maybe_accepted
        disk.answer = "{1, 0}"
        await broker.publish([message("b"), message("c")])  # waited for again, and taken once
        assert disk.asked[2:] == [b"1 0 500"] * 2
        assert await broker.size("q") == 3


async def test_a_wait_longer_than_a_reply_may_take_breaks_no_connection(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_session, "REPLY_TIMEOUT", 1.0)
    monkeypatch.setattr(redis_session, "_TICK", 0.1)
    monkeypatch.setattr("taskq.broker_adapters.redis.durability.LONGEST_WAIT", 400, raising=False)
    async with connected(server.url, patience=1.6, durable_replicas=1) as broker:
        sent = [broker.publish([message(name)]) for name in "abc"]
        errors = await asyncio.gather(*sent, return_exceptions=True)
        assert all("only 0 of 1 replicas had it within 1.6 s" in str(error) for error in errors)
        assert await broker.size("q") == 3


async def test_what_was_taken_and_not_confirmed_is_not_reported_as_never_sent(disk: Disk) -> None:
    async with connected(disk.url, durable=True) as broker:
        disk.answer = "redis.error_reply('LOADING Redis is loading')"
        with pytest.raises(ConnectionLost) as caught:
            await broker.publish([message("a")])
        assert caught.value.maybe_accepted
        disk.answer = "{1, 0}"
        await broker.publish([message("a")])
        assert await broker.size("q") == 1


async def test_without_the_option_nothing_is_waited_for(disk: Disk) -> None:
    async with connected(disk.url) as broker:
        await broker.publish([message("a")])
    assert disk.asked == []


async def test_a_server_that_cannot_say_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    with (
        redis_server(tmp_path) as unsafe,
        pytest.raises(
            OperationalError, match=r"durable needs WAITAOF \(Redis 7\.2 or later\) and appendonly yes"
        ),
    ):
        async with connected(unsafe.url, durable=True):
            pass


async def test_the_disk_of_a_server_that_can(server: RedisServer) -> None:
    with server.client() as client:
        major, minor = map(int, client.info()["redis_version"].split(".")[:2])
    if (major, minor) < (7, 2):
        pytest.skip("WAITAOF came with Redis 7.2")
    async with connected(server.url, durable=True) as broker:
        await broker.publish([message("a")])
        assert await broker.size("q") == 1


def in_step(master: redis.Redis) -> bool:
    """Whether a replica has told the master that it has everything."""
    info = master.info()
    replica = info.get("slave0", {"state": "", "offset": 0})
    return bool(replica["state"] == "online" and replica["offset"] >= info["master_repl_offset"])


async def test_replicas_are_waited_for(server: RedisServer, tmp_path: Path) -> None:
    async with connected(server.url, patience=2.0, durable_replicas=1) as broker:
        with pytest.raises(OperationalError, match="only 0 of 1 replicas") as caught:
            await broker.publish([message("a")])
        assert caught.value.maybe_accepted
        assert await broker.size("q") == 1
        (tmp_path / "replica").mkdir()
        options = ("--replicaof", "127.0.0.1", str(server.port))
        with redis_server(tmp_path / "replica", *options) as replica, server.client() as master:
            await eventually(partial(in_step, master))
            await broker.publish([message("a"), message("b")])
            with replica.client() as client:
                assert client.llen("q") == 2


@pytest.mark.parametrize("options", [{"durable": "yes"}, {"durable_replicas": -1}, {"durable_replicas": "1"}])
def test_values_that_cannot_work(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="broker_transport_options: durable"):
        open_broker(BrokerConfig("redis://h", options=options))
