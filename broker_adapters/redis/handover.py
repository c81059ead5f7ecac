"""Where redis-py ends and our session begins.

redis-py connects: sockets, TLS, HELLO with the login, the client's name, SELECT. The stream is then taken out of
its connection and belongs to a `Session`. What is used of redis-py beyond its documented API is two attributes of
`redis.asyncio.connection.AbstractConnection`, the same from 6.2 to 8.1:

`_reader`, `_writer`: an asyncio.StreamReader and StreamWriter while it is connected, None while it is not. Both are
set to None, as redis-py does when it disconnects.

If a version keeps its stream elsewhere, connecting fails with one error that says so.
"""

import asyncio
from typing import Any, Final

import redis
from redis import exceptions
from redis.asyncio.connection import AbstractConnection

from taskq.broker_adapters.redis.session import Push, RedisSession, refusal, refuse_cluster
from taskq.errors import ConnectionLost, OperationalError

#: Redis 6.2 brought RPOP of many values, ZMSCORE and HELLO without arguments.
_TOO_OLD: Final = ("2.", "3.", "4.", "5.", "6.0.")

#: redis-py takes the code away from an error reply; the class gives it back.
_CODES: Final = (
    (exceptions.BusyLoadingError, "LOADING"),
    (exceptions.NoPermissionError, "NOPERM"),
    (exceptions.MasterDownError, "MASTERDOWN"),
)


async def connect(connection: AbstractConnection, shown: str, on_push: Push | None) -> RedisSession:
    """Connect and log in with redis-py, then take the connection over.

    Raises:
        OperationalError: it was refused, or is no server for us; ConnectionLost: it could not be reached.
    """
    try:
        await _connect(connection)
        session = RedisSession(take_stream(connection), shown, on_push)
    except exceptions.RedisError as error:
        raise explain(error, shown) from error
    finally:
        await connection.disconnect(nowait=True)  # nothing, once the stream is ours
    try:
        await _check_server(session, shown)
    except BaseException:
        session.abort("not usable")
        raise
    return session


async def _connect(connection: AbstractConnection) -> None:
    """Connect; a cancellation is not forgotten.

    Python 3.11's `asyncio.wait_for`, by which redis-py writes, forgets one that comes as the writing ends
    (python/cpython#86296): a listener that was closed as it connected went on listening, and its closer waited for ever.
    """
    task = asyncio.current_task()
    before = 0 if task is None else task.cancelling()
    await connection.connect()
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


def take_stream(connection: AbstractConnection) -> asyncio.StreamWriter:
    """The stream of a connected connection, which then has none.

    Raises:
        OperationalError: this redis-py is built otherwise; ConnectionLost: the server has closed it already.
    """
    reader, writer = getattr(connection, "_reader", None), getattr(connection, "_writer", None)
    if not isinstance(reader, asyncio.StreamReader) or not isinstance(writer, asyncio.StreamWriter):
        raise OperationalError(
            f"redis-py {redis.__version__} keeps the stream of a connection where taskq does not find it:"
            " install redis>=6.2,<9"
        )
    if reader.at_eof() or writer.transport.is_closing():
        raise ConnectionLost("the server closed the connection at once")
    for name in ("_reader", "_writer"):
        setattr(connection, name, None)
    return writer


async def _check_server(session: RedisSession, shown: str) -> None:
    about: dict[bytes, Any] = await session.call("HELLO")
    if about.get(b"mode") == b"cluster":
        raise refuse_cluster(shown)
    version = about.get(b"version", b"").decode()
    if about.get(b"server") == b"redis" and version.startswith(_TOO_OLD):
        raise OperationalError(f"{shown}: Redis {version} is too old: taskq needs 6.2 or later")


def explain(error: exceptions.RedisError, shown: str) -> OperationalError:
    """What an error of redis-py means."""
    if isinstance(
        error, exceptions.AuthenticationError
    ):  # of WRONGPASS "invalid ..." is left, else it is NOAUTH
        return refusal(f"{'WRONGPASS' if 'invalid' in str(error) else 'NOAUTH'} {error}", shown)
    for kind, code in _CODES:
        if isinstance(error, kind):
            return refusal(f"{code} {error}", shown)
    if isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError):
        hint = "the server speaks no TLS on this port, use redis:// " if "WRONG_VERSION" in str(error) else ""
        return ConnectionLost(f"{shown}: {hint}{error}")
    return refusal(str(error), shown)
