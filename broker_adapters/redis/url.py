"""From a URL and options to a live session: servers, failover lists, Sentinel (wire-format.md 2.9).

redis-py reads the URLs, connects, sets up TLS, logs in, chooses the database and asks the sentinels; then
`redis_handover` takes the connection over. Shared by the Redis broker and the Redis result store.
"""

import asyncio
import inspect
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast
from urllib.parse import urlsplit

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from taskq.broker_adapters.redis.handover import connect, explain
from taskq.broker_adapters.redis.session import Push, RedisSession
from taskq.errors import ConfigError, ConnectionLost, OperationalError
from taskq.seams.urls import SCHEMES, Scheme, mask, split_urls

_DRIVER_SCHEMES: Final = frozenset(("redis", "rediss", "unix"))
_TLS_OPTIONS: Final = frozenset(
    name for name in inspect.signature(SSLConnection.__init__).parameters if name.startswith("ssl_")
)
_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
#: After so many seconds of a TLS handshake without an end it is asked whether the server speaks TLS at all.
_PLAIN_LOOK: Final = 0.7


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server: the class of redis-py that connects to it, with its arguments."""

    shown: str
    kind: type[AbstractConnection]
    options: Mapping[str, Any] = field(repr=False)

    @property
    def db(self) -> int:
        return cast("int", self.options.get("db", 0))

    def connection(self, **more: Any) -> AbstractConnection:
        """redis-py's connection, not connected yet."""
        return self.kind(**{**self.options, **more})

    async def connect(self, name: str, patience: float, on_push: Push | None) -> RedisSession:
        connection = self.connection(
            client_name=name.replace(" ", "-"),
            protocol=3,
            socket_timeout=patience,
            socket_connect_timeout=patience,
        )
        connecting = asyncio.ensure_future(connect(connection, self.shown, on_push))
        try:
            if self.kind is SSLConnection:
                await asyncio.wait([connecting], timeout=_PLAIN_LOOK)
                if not connecting.done():
                    await self._check_it_speaks_tls()
            return await connecting
        except BaseException:
            connecting.cancel()
            connecting.add_done_callback(_drop)
            raise

    async def _check_it_speaks_tls(self) -> None:
        """Raises OperationalError if Redis answers without TLS: it lets a TLS greeting wait for the end of its line."""
        if await self._speaks_plainly():
            raise OperationalError(
                f"{self.shown}: the server speaks no TLS on this port: use redis://, or the port for TLS"
            )

    async def _speaks_plainly(self) -> bool:
        host, port = self.options.get("host", "localhost"), self.options.get("port", _PORT)
        try:
            async with asyncio.timeout(_PLAIN_LOOK):
                reader, writer = await asyncio.open_connection(host, port)
                try:
                    writer.write(b"PING\r\n")
                    return await reader.read(1) in {b"+", b"-"}
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False


def _drop(connecting: asyncio.Future[RedisSession]) -> None:
    """Nobody waits any more for what came of it."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().abort("not wanted any more")


@dataclass(slots=True)
class Target:
    """Where a URL leads: servers to try in turn, or the sentinels that know the master."""

    shown: str
    name: str
    timeout: float
    endpoints: list[Endpoint]
    sentinels: list[tuple[str, int]] = field(default_factory=list)
    sentinel_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    master_name: str = ""

    async def connect(self, on_push: Push | None = None) -> RedisSession:
        """A live session with the first of the servers that can be used: one attempt asks them all.

        Raises:
            OperationalError: it was refused; ConnectionLost: nobody could be reached.
        """
        failures: list[OperationalError] = []
        for _ in range(1 if self.sentinels else len(self.endpoints)):
            try:
                return await self._try_first(on_push)
            except OperationalError as error:
                failures.append(error)
            # The next try, of this attempt or of a later one, is for the next URL of a failover list.
            self.endpoints.append(self.endpoints.pop(0))
        refused = next((error for error in failures if not isinstance(error, ConnectionLost)), None)
        if refused is not None:
            raise refused
        problems = dict.fromkeys(str(error).removeprefix(f"{self.shown}: ").rstrip(".") for error in failures)
        raise ConnectionLost(
            f"{self.shown}: cannot connect ({'; '.join(problems)}): check host and port, and that Redis runs"
        )

    async def _try_first(self, on_push: Push | None) -> RedisSession:
        """Connect to the first server of the list, in its share of the time."""
        patience = self.timeout / (1 if self.sentinels else len(self.endpoints))
        try:
            async with asyncio.timeout(patience):
                endpoint = await self._master() if self.sentinels else self.endpoints[0]
                return await endpoint.connect(self.name, self.timeout, on_push)
        except TimeoutError:
            raise ConnectionLost(f"no answer within {patience:g} s") from None

    async def _master(self) -> Endpoint:
        """Ask the sentinels in turn who the master is."""
        patience = self.timeout / len(self.sentinels)
        # One try each: there are others to ask, and the caller tries again. RESP2 does for one question.
        options = {"retry": Retry(NoBackoff(), 0), "protocol": 2, **self.sentinel_options}
        limits = {"socket_timeout": patience, "socket_connect_timeout": patience}
        sentinel = Sentinel(self.sentinels, sentinel_kwargs=options | limits)
        try:
            host, port = await sentinel.discover_master(self.master_name)
        except RedisError as error:
            raise explain(error, self.shown) from error
        finally:
            for client in sentinel.sentinels:
                await client.aclose()
        first = self.endpoints[0]
        return Endpoint(first.shown, first.kind, {**first.options, "host": host, "port": port})


def parse_target(
    url: str, options: Mapping[str, Any], tls: Mapping[str, Any] | None, *, timeout: float, name: str
) -> Target:
    """Read a broker or result store URL.

    Raises:
        ConfigError: a part of it cannot work.
    """
    shown = mask(url)
    urls = split_urls(url)
    if not urls:
        raise ConfigError("an empty Redis URL: use for example redis://localhost:6379/0")
    endpoints = [_endpoint(one, shown, tls) for one in urls]
    if not any(one.startswith("sentinel:") for one in urls):
        return Target(shown, name, timeout, endpoints)
    if not options.get("master_name"):
        raise ConfigError(
            f"{shown}: Sentinel needs the master's name: set broker_transport_options"
            " (or result_backend_transport_options) to {'master_name': ...}"
        )
    sentinels = [
        (end.options.get("host", "localhost"), end.options.get("port", _SENTINEL_PORT)) for end in endpoints
    ]
    first = endpoints[0]
    secured = {key: value for key, value in first.options.items() if key in _TLS_OPTIONS}
    login = {"ssl": first.kind is SSLConnection, **secured, **options.get("sentinel_kwargs", {})}
    return Target(shown, name, timeout, endpoints, sentinels, login, options["master_name"])


def _endpoint(url: str, shown: str, tls: Mapping[str, Any] | None) -> Endpoint:
    scheme, _, rest = url.partition(":")
    driver = SCHEMES.get(scheme, Scheme()).driver
    if driver not in _DRIVER_SCHEMES:
        raise ConfigError(f"{mask(url)}: the scheme is none of Redis, as all of a failover list are to be")
    if scheme.endswith("+socket"):
        rest = rest.replace("virtual_host=", "db=")
    try:
        found: dict[str, Any] = {**parse_url(f"{driver}:{rest}")}
        database = urlsplit(url).path.strip("/")
    except ValueError:
        raise ConfigError(f"{mask(url)} is not a URL of Redis: check its port and its brackets") from None
    kind = found.pop("connection_class", Connection)
    if kind is not UnixDomainSocketConnection and database and not database.isdecimal():
        raise ConfigError(f"a Redis database is a number, not {database!r}")
    if tls is not None and kind is Connection:
        kind = SSLConnection  # broker_use_ssl alone turns it on, as in Celery
    _check_options(found, kind, mask(url))
    found |= {f"ssl_{key.removeprefix('ssl_')}": value for key, value in (tls or {}).items()}
    return (
        _checked_tls(Endpoint(shown, kind, found), mask(url))
        if kind is SSLConnection
        else Endpoint(shown, kind, found)
    )


def _check_options(found: Mapping[str, Any], kind: type[AbstractConnection], shown: str) -> None:
    known = {"host", "port", "path", "username", "password", "db"}
    secured = {key for key in found if key.startswith("ssl_")}
    if secured and kind is not SSLConnection:
        raise ConfigError(f"{shown}: TLS options need rediss:// (or valkeys://)")
    if unknown := found.keys() - known - secured:
        raise ConfigError(f"{shown}: unknown URL options {', '.join(sorted(unknown))}")


def _checked_tls(end: Endpoint, shown: str) -> Endpoint:
    """The endpoint with TLS options as redis-py wants them, tried; certificates are verified unless they say otherwise."""
    options = dict(end.options)
    if unknown := {key for key in options if key.startswith("ssl_")} - _TLS_OPTIONS:
        names = ", ".join(sorted(key.removeprefix("ssl_") for key in unknown))
        raise ConfigError(f"{shown}: unknown TLS options {names}")
    wanted = options.get("ssl_cert_reqs", ssl.CERT_REQUIRED)
    options["ssl_cert_reqs"] = wanted.lower().removeprefix("cert_") if isinstance(wanted, str) else wanted
    checked = Endpoint(end.shown, end.kind, options)
    try:
        cast("SSLConnection", checked.connection()).ssl_context.get()
    except (OSError, ValueError, RedisError) as error:
        raise ConfigError(f"{shown}: TLS cannot be set up: {error}") from error
    return checked
