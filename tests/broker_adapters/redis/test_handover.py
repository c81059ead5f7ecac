"""The seam to the installed redis-py: what it connects is taken over, on both event loops, and what cannot be is told."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import redis
import uvloop
from redis import exceptions
from redis.asyncio.connection import Connection

from taskq.broker_adapters.redis.handover import connect, explain, take_stream
from taskq.broker_adapters.redis.session import NotPermitted
from taskq.errors import ConnectionLost, EncodeError, OperationalError
from tests.polling import eventually

pytestmark = pytest.mark.redis


@pytest.fixture
def connection(redis_url: str) -> Connection:
    port = int(redis_url.rpartition(":")[2])
    return Connection(host="127.0.0.1", port=port, db=9, protocol=3, client_name="handed-over")


async def test_the_stream_is_ours_and_redis_py_has_none(connection: Connection) -> None:
    session = await connect(connection, "here", None)
    assert not connection.is_connected
    assert b"name=handed-over" in await session.call("CLIENT", "INFO")
    assert b"db=9" in await session.call("CLIENT", "INFO")
    assert b"resp=3" in await session.call("CLIENT", "INFO")
    session.abort("done")


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_pushes_and_replies_on_both_loops(
    connection: Connection, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    pushes: list[Any] = []

    async def run() -> None:
        session = await connect(connection, "here", pushes.append)
        await session.call("SUBSCRIBE", "taskq-handover")
        futures = session.send(("PUBLISH", "taskq-handover", b"x" * 300_000), ("PING",))
        assert [await future for future in futures] == [1, b"PONG"]
        session.abort("done")
        await session.closed

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())
    assert pushes == [[b"message", b"taskq-handover", b"x" * 300_000]]


@pytest.mark.parametrize("attribute", ["_reader", "_writer"])
async def test_a_redis_py_built_otherwise_is_one_clear_error(connection: Connection, attribute: str) -> None:
    await connection.connect()
    kept = getattr(connection, attribute)
    setattr(connection, attribute, object())
    with pytest.raises(OperationalError, match=rf"redis-py {redis.__version__} .* redis>=6\.2,<9"):
        take_stream(connection)
    setattr(connection, attribute, kept)
    await connection.disconnect()


class Forgetful(Connection):
    """Forgets a cancellation that comes while it connects, as redis-py does on Python 3.11."""

    async def connect(self) -> None:
        await super().connect()  # type: ignore[no-untyped-call]  # redis-py
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


async def test_a_cancellation_that_redis_py_forgets_is_remembered(redis_url: str) -> None:
    connection = Forgetful(host="127.0.0.1", port=int(redis_url.rpartition(":")[2]), db=9, protocol=3)
    connecting = asyncio.create_task(connect(connection, "here", None))
    await eventually(lambda: connection.is_connected)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert not connection.is_connected


async def test_a_server_that_hangs_up_after_the_login() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"HELLO\r\n$1\r\n3\r\n")
        writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
        await reader.readuntil(b"LIB-VER\r\n")
        writer.write(b"+OK\r\n+OK\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(ConnectionLost, match="closed"):
        await connect(Connection(host="127.0.0.1", port=port, protocol=3), "here", None)
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    ("error", "kind", "meaning"),
    [
        (exceptions.BusyLoadingError("x"), ConnectionLost, "still loading"),
        (exceptions.MasterDownError("x"), ConnectionLost, "lost its master"),
        (exceptions.NoPermissionError("x"), NotPermitted, "may not do that"),
        (
            exceptions.ConnectionError("max number of clients reached"),
            ConnectionLost,
            "max number of clients",
        ),
    ],
)
def test_errors_of_redis_py_keep_their_meaning(
    error: redis.RedisError, kind: type[OperationalError], meaning: str
) -> None:
    assert meaning in str(told := explain(error, "here"))
    assert type(told) is kind


async def test_a_command_that_cannot_be_written_leaves_the_replies_of_others_alone(
    connection: Connection,
) -> None:
    session = await connect(connection, "here", None)
    with pytest.raises(EncodeError, match="cannot be written"):
        session.send(("ECHO", "first"), ("ECHO", "\ud800"))
    with pytest.raises(EncodeError, match="cannot be written"):
        session.send(("ECHO", None))
    assert await session.call("ECHO", "second") == b"second"
    session.abort("done")
