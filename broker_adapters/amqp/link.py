"""One connection to RabbitMQ that is made again whenever it breaks, over aio-pika.

aio-pika's own robust connection waits a fixed time between tries, knows one URL and puts channels back one by
one; here every try goes to the next URL of a failover list after a jittered wait, and whoever used the
connection sees that its channel is closed and builds a new one: nothing of an old connection is used on a new.
"""

import asyncio
import logging
import random
import re
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Generic, TypeVar

import aio_pika
import aiormq
from aio_pika.abc import ConnectionParameter

from taskq.broker_adapters.amqp.urls import server_of, tls_context
from taskq.broker_adapters.amqp.wire import Tap, TappedTransport
from taskq.errors import BrokerFull, ConfigError, ConnectionLost, OperationalError, Refused
from taskq.seams.broker import BrokerConfig
from taskq.seams.urls import mask, split_urls

log = logging.getLogger("taskq.amqp")

#: Seconds between tries: doubled from the first to the last, and jittered so that a fleet does not come at once.
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0

DRIVER_ERRORS = (aiormq.exceptions.AMQPError, OSError, RuntimeError, asyncio.TimeoutError)

T = TypeVar("T")

#: Reply codes 403 and 406: by them the server refuses what was asked for, and will again.
_REFUSALS: Final = (aiormq.exceptions.ChannelAccessRefused, aiormq.exceptions.ChannelPreconditionFailed)
_CHANNEL_CLOSED: Final = (
    *_REFUSALS,
    aiormq.exceptions.ChannelNotFoundEntity,
    aiormq.exceptions.ChannelLockedResource,
)
#: What it says with these codes of what may be otherwise later.
_NOT_NOW: Final = re.compile(
    r"exclusive use|limit in vhost|timeout|timed out|unknown delivery tag|down or inaccessible"
)
#: A message beyond its `max_message_size` (16 MiB since 4.0, before that 128 MiB).
_TOO_LARGE: Final = re.compile(r"message size (\d+) (?:is )?larger than (?:configured )?max size (\d+)")


#: Whether what runs now is done by the driver for one of our connections: its tasks keep what was set as they began.
_OURS: ContextVar[bool] = ContextVar("ours", default=False)


def _is_to_be_told(_record: logging.LogRecord) -> bool:
    """What the driver says of our connections, with tracebacks, we say ourselves in one line."""
    return not _OURS.get() or log.isEnabledFor(logging.DEBUG)


for _name in ("aiormq.connection", "aiormq.channel", "aio_pika.connection", "aio_pika.channel"):
    logging.getLogger(_name).addFilter(_is_to_be_told)


@contextmanager
def _driving() -> Iterator[None]:
    before = _OURS.set(True)
    try:
        yield
    finally:
        _OURS.reset(before)


class _LinkOutages:
    """The connections of this process that are lost, by their server: the first and the last of them are told of."""

    def __init__(self) -> None:
        self._lost: dict[str, set[int]] = {}

    def begin(self, server: str, link: int, reason: str) -> None:
        lost = self._lost.setdefault(server, set())
        if not lost:
            # Workers tell an outage by its error, once for all that is hit by it.
            log.warning("%s, connecting again", ConnectionLost(f"connection to {server} lost ({reason})"))
        lost.add(link)

    def end(self, server: str, link: int, *, connected: bool) -> None:
        lost = self._lost.get(server, set())
        if link in lost:
            lost.remove(link)
            if not lost and connected:
                log.info("connected to %s again", server)


_OUTAGES: Final = _LinkOutages()


class _DriverConnection(aio_pika.Connection):
    """aio-pika's connection, with aiormq's `transport_factory` let through."""

    PARAMETERS = (
        *aio_pika.Connection.PARAMETERS,
        ConnectionParameter(name="transport_factory", parser=lambda factory: factory, is_kwarg=True),
    )


class AmqpLink:
    """A connection by name; `ready` gives the present one. One event loop."""

    def __init__(self, config: BrokerConfig, purpose: str) -> None:
        self.config = config
        self.shown = mask(config.url)
        self._servers = [server_of(url, config.ssl, config.heartbeat) for url in split_urls(config.url)]
        self._name = f"{config.name}:{purpose}"
        self._turn = 0
        self._up = asyncio.Event()
        self._closing = False
        self._keeper: asyncio.Task[None] | None = None
        self._connection: aio_pika.Connection | None = None
        self.tap = Tap(0)
        #: Bytes of the largest body that the server takes, once it has refused one.
        self.largest: int | None = None
        self._gone = asyncio.Event()
        self._last_error = "no answer"

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    async def open(self) -> None:
        """Connect; every URL is tried once.

        Raises:
            ConfigError: a file of the TLS options cannot be read.
            ConnectionLost: none of them answers, or the login is refused.
        """
        self._closing = False
        self._up.clear()
        for attempt in range(len(self._servers)):
            try:
                await self._connect()
                break
            except DRIVER_ERRORS as error:
                if attempt == len(self._servers) - 1:
                    raise self._refused(error) from error
        self._keeper = asyncio.create_task(self._keep(), name=f"{self._name}-link")

    async def close(self) -> None:
        """Disconnect for good."""
        self._closing = True
        self._up.set()  # whoever waits learns from `ready` that it is over
        if self._keeper is not None:
            await ended(self._keeper)
        _OUTAGES.end(self.shown, id(self), connected=False)
        await self._disconnect()

    async def ready(self) -> aio_pika.Connection:
        """The connection, as soon as there is one.

        Raises:
            ConnectionLost: not within the configured timeout, or closed.
        """
        if not self._up.is_set():
            try:
                async with asyncio.timeout(self.config.timeout):
                    await self._up.wait()
            except TimeoutError:
                raise ConnectionLost(
                    f"no connection to {self.shown} for {self.config.timeout:g} s ({self._last_error}): "
                    "it is being tried again; check that RabbitMQ runs there"
                ) from None
        if self._closing or self._connection is None:
            raise ConnectionLost(f"the connection to {self.shown} was closed by this program")
        return self._connection

    async def channel(self, *, confirms: bool = False) -> aio_pika.abc.AbstractChannel:
        """A new channel.

        Raises:
            OperationalError: there is no connection, or it refuses.
        """
        end = asyncio.get_running_loop().time() + self.config.timeout
        connection = await self.ready()
        channel = connection.channel(publisher_confirms=confirms, on_return_raises=confirms)
        try:
            with _driving():
                async with asyncio.timeout_at(end):
                    await channel.initialize()
        except DRIVER_ERRORS as error:
            raise self.error(error) from error
        return channel

    def server_version(self) -> tuple[int, ...]:
        """The major and minor version of the server that is connected."""
        transport = self._connection.transport if self._connection else None
        properties: Any = getattr(transport.connection, "server_properties", {}) if transport else {}
        parts = str(properties.get("version", "0")).split(".")
        return tuple(int(part) for part in parts[:2] if part.isdigit())

    def error(self, error: BaseException, *, maybe_accepted: bool = False) -> OperationalError | Refused:
        """Our error for one of the driver's: what the server refuses for good is told by its reply code."""
        if isinstance(error, _REFUSALS) and not _NOT_NOW.search(str(error)):
            return self._never(str(error))
        if self.tap.blocked:
            return self.full(maybe_accepted=maybe_accepted)
        if isinstance(error, _CHANNEL_CLOSED):
            return OperationalError(f"{self.shown} refused: {error}", maybe_accepted=maybe_accepted)
        if isinstance(error, TimeoutError):
            return OperationalError(f"{self.shown} did not answer in time", maybe_accepted=maybe_accepted)
        return ConnectionLost(
            f"the connection to {self.shown} broke ({type(error).__name__}: {error}); it is being made again",
            maybe_accepted=maybe_accepted,
        )

    def not_now(self, error: BaseException) -> OperationalError:
        """The same where nothing of a user's is refused, but what we need for ourselves: it may be allowed later."""
        ours = self.error(error)
        return ours if isinstance(ours, OperationalError) else OperationalError(str(ours))

    def too_large(self, size: int) -> Refused:
        """The error for a body of so many bytes, once the server has said how many it takes."""
        return Refused(
            f"{self.shown} takes messages of at most {self.largest} bytes, this one has {size}: raise its "
            "`max_message_size`, or pass a reference to the data"
        )

    def _never(self, reason: str) -> Refused:
        if found := _TOO_LARGE.search(reason):
            self.largest = int(found[2])
            return self.too_large(int(found[1]))
        return Refused(f"{self.shown} refused: {reason}")

    def full(self, *, maybe_accepted: bool) -> BrokerFull:
        """The error of a server that takes no publishes."""
        return BrokerFull(
            f"{self.shown} takes no messages now ({self.tap.blocked}): free memory or disk there, "
            "or let workers drain its queues",
            maybe_accepted=maybe_accepted,
        )

    def _refused(self, error: BaseException) -> ConnectionLost:
        problem = f"{type(error).__name__}: {str(error) or 'no answer'}"
        if isinstance(error, aiormq.exceptions.InvalidFrameError) and "Connection.OpenOk" in problem:
            problem = "the vhost does not exist, or this user may not use it"  # what the driver makes of it
        return ConnectionLost(
            f"cannot connect to {self.shown} ({problem}): "
            "check host, port, user, password and vhost, and that RabbitMQ runs"
        )

    async def _connect(self) -> None:
        server = self._servers[self._turn % len(self._servers)]
        self._turn += 1
        heartbeat = server.heartbeat
        tap = Tap(heartbeat)
        connection = _DriverConnection(
            server.url.update_query(heartbeat=int(heartbeat)),
            ssl_context=tls_context(server.tls) if server.tls is not None else None,
            client_properties={"connection_name": self._name, "product": "taskq"},
            transport_factory=TappedTransport(tap, heartbeat),
        )
        try:
            with _driving():
                await connection.connect(timeout=self.config.timeout)
        except BaseException:
            tap.abort()
            raise
        self.tap, self._connection, self.largest = tap, connection, None
        self._gone = asyncio.Event()
        connection.close_callbacks.add(self._on_gone)
        tap.on_closed.append(self._gone.set)
        if tap.closed:
            self._gone.set()
        self._up.set()

    def _on_gone(self, _connection: Any, error: BaseException | None = None) -> None:
        self._last_error = str(error) or "closed"
        self._gone.set()

    async def _keep(self) -> None:
        while True:
            await self._gone.wait()
            self._up.clear()
            _OUTAGES.begin(self.shown, id(self), self._last_error)
            await self._disconnect()
            await self._connect_again()
            _OUTAGES.end(self.shown, id(self), connected=True)

    async def _connect_again(self) -> None:
        wait = _FIRST_WAIT
        while True:
            await asyncio.sleep(random.uniform(wait / 2, wait))  # noqa: S311 - jitter
            wait = min(2 * wait, _LONGEST_WAIT)
            try:
                await self._connect()
            except (*DRIVER_ERRORS, ConfigError) as error:
                self._last_error = f"{type(error).__name__}: {error}"
                log.info("%s", ConnectionLost(f"cannot connect to {self.shown}: {self._last_error}"))
            else:
                return

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            async with asyncio.timeout(self.config.timeout):
                await connection.close()
        except DRIVER_ERRORS as error:
            log.debug("closing: %r", error)
            self.tap.abort()


class OneAttempt(Generic[T]):
    """What many ask for at once is tried once, and all get what it came to; by its arguments."""

    def __init__(self, act: Callable[..., Coroutine[Any, Any, T]]) -> None:
        self._act = act
        self._tasks: dict[tuple[Any, ...], asyncio.Task[T]] = {}

    async def __call__(self, *args: Any) -> T:
        task = self._tasks.get(args)
        if task is None:
            task = self._tasks[args] = asyncio.create_task(self._act(*args))
            task.add_done_callback(lambda done: self._done(args, done))
        return await asyncio.shield(task)

    def _done(self, args: tuple[Any, ...], task: "asyncio.Task[T]") -> None:
        del self._tasks[args]
        if not task.cancelled():
            task.exception()  # whoever asked may be gone


async def ended(*tasks: "asyncio.Task[None]") -> None:
    """Cancel tasks until they have ended.

    Once may not be enough: Python 3.11's `asyncio.wait_for`, in which the driver waits for answers, forgets a cancellation that
    comes together with the answer (python/cpython#86296).
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=1.0)
    await asyncio.gather(*tasks, return_exceptions=True)
