"""From a URL and options to a live session: TLS, sockets, Sentinel, failover lists (celery-protocol.md 2.9).

Shared by the Redis broker and the Redis result store.
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from taskq.errors import ConfigError, ConnectionLost, OperationalError
from taskq.redis_session import Push, Session, refuse_cluster
from taskq.urls import mask, split_urls

_PLAIN: Final = frozenset({"redis", "valkey"})
_TLS: Final = frozenset({"rediss", "valkeys"})
_SOCKET: Final = frozenset({"redis+socket", "valkey+socket"})
_SCHEMES: Final = _PLAIN | _TLS | _SOCKET | {"sentinel"}

#: Redis 6.2 brought RPOP of many values and ZMSCORE.
_TOO_OLD: Final = ("2.", "3.", "4.", "5.", "6.0.")

_REQUIREMENTS: Final = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}
_TLS_OPTIONS: Final = frozenset(
    (
        "cert_reqs",
        "ca_certs",
        "ca_path",
        "ca_data",
        "certfile",
        "keyfile",
        "password",
        "check_hostname",
        "ciphers",
    )
)
_FALSE: Final = frozenset(("0", "false", "no", False))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server and how to log in there; `path` is a Unix socket's."""

    shown: str
    host: str = "localhost"
    port: int = 6379
    path: str = ""
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    username: str = ""
    password: str = field(default="", repr=False)
    db: int = 0

    async def connect(self, name: str, on_push: Push | None) -> Session:
        loop = asyncio.get_running_loop()

        def session() -> Session:
            return Session(self.shown, on_push)

        if self.path:
            _, made = await loop.create_unix_connection(session, self.path)
        else:
            _, made = await loop.create_connection(session, self.host, self.port, ssl=self.tls)
        try:
            await self._log_in(made, name)
        except BaseException:
            made.abort("login failed")
            raise
        return made

    async def _log_in(self, session: Session, name: str) -> None:
        auth = ["AUTH", self.username or "default", self.password] if self.password else []
        hello = await session.call("HELLO", "3", *auth, "SETNAME", name.replace(" ", "-"))
        about = dict(zip(hello[::2], hello[1::2], strict=True)) if isinstance(hello, list) else hello
        if about.get(b"mode") == b"cluster":
            raise refuse_cluster(self.shown)
        version = about.get(b"version", b"").decode()
        if about.get(b"server") == b"redis" and version.startswith(_TOO_OLD):
            raise OperationalError(f"{self.shown}: Redis {version} is too old: taskq needs 6.2 or later")
        if self.db:
            await session.call("SELECT", self.db)


@dataclass(slots=True)
class Target:
    """Where a URL leads: servers to try in turn, or the sentinels that know the master."""

    shown: str
    name: str
    timeout: float
    endpoints: list[Endpoint]
    sentinels: list[Endpoint] = field(default_factory=list)
    master_name: str = ""

    async def connect(self, on_push: Push | None = None) -> Session:
        """A live session with one of the servers.

        Raises:
            OperationalError: it was refused; ConnectionLost: nobody could be reached.
        """
        try:
            async with asyncio.timeout(self.timeout):
                endpoint = await self._master() if self.sentinels else self.endpoints[0]
                return await endpoint.connect(self.name, on_push)
        except TimeoutError:
            problem = f"no answer within {self.timeout:g} s"
        except OSError as error:
            problem = str(error)
        except ConnectionLost as error:
            problem = str(error).removeprefix(f"{self.shown}: ")
        finally:
            # The next try begins with the next URL of a failover list.
            self.endpoints.append(self.endpoints.pop(0))
        raise ConnectionLost(f"{self.shown}: cannot connect: {problem}")

    async def _master(self) -> Endpoint:
        """Ask the sentinels in turn who the master is."""
        problem = "no sentinel answered"
        for sentinel in list(self.sentinels):
            try:
                async with asyncio.timeout(self.timeout / len(self.sentinels)):
                    session = await sentinel.connect(self.name, None)
                    try:
                        found = await session.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.master_name)
                    finally:
                        session.abort("asked")
            except (OSError, TimeoutError, OperationalError) as error:
                problem = f"sentinel {sentinel.host}:{sentinel.port}: {str(error) or 'no answer'}"
                continue
            if found:
                return replace(self.endpoints[0], host=found[0].decode(), port=int(found[1]))
            problem = f"sentinel {sentinel.host}:{sentinel.port} knows no master {self.master_name!r}"
        raise ConnectionLost(problem)


def parse_target(
    url: str, options: Mapping[str, Any], tls: Mapping[str, Any] | None, *, timeout: float, name: str
) -> Target:
    """Read a broker or result store URL.

    Raises:
        ConfigError: a part of it cannot work.
    """
    shown = mask(url)
    parts = [_split(one) for one in split_urls(url)]
    if not parts:
        raise ConfigError("an empty Redis URL: use for example redis://localhost:6379/0")
    endpoints = [_endpoint(part, shown, tls) for part in parts]
    if not any(part.scheme == "sentinel" for part in parts):
        return Target(shown, name, timeout, endpoints)
    if not options.get("master_name"):
        raise ConfigError(
            f"{shown}: Sentinel needs the master's name: set broker_transport_options"
            " (or result_backend_transport_options) to {'master_name': ...}"
        )
    login = options.get("sentinel_kwargs", {})
    sentinels = [
        Endpoint(
            shown, end.host, part.port or 26379, tls=end.tls,
            username=login.get("username") or "", password=login.get("password") or "",
        )
        for part, end in zip(parts, endpoints, strict=True)
    ]  # fmt: skip
    return Target(shown, name, timeout, endpoints, sentinels, options["master_name"])


def _split(url: str) -> SplitResult:
    try:
        part = urlsplit(url)
        _ = part.port  # a number outside 0..65535 shows only when it is asked for
    except ValueError as error:
        raise ConfigError(f"{mask(url)} is not a URL: {error}") from None
    if part.scheme not in _SCHEMES:
        raise ConfigError(f"{mask(url)}: the scheme is not one of {', '.join(sorted(_SCHEMES))}")
    return part


def _endpoint(part: SplitResult, shown: str, tls: Mapping[str, Any] | None) -> Endpoint:
    query = dict(parse_qsl(part.query))
    on_socket = part.scheme in _SOCKET
    database = query.pop("virtual_host", "") or query.pop("db", "")
    path = unquote(part.path)
    context = _tls_context(part, query, tls)
    if query:
        raise ConfigError(f"{shown}: unknown URL options {', '.join(sorted(query))}")
    return Endpoint(
        shown=shown,
        host=part.hostname or "localhost",
        port=part.port or 6379,
        path=path if on_socket else "",
        tls=context,
        username=unquote(part.username or ""),
        password=unquote(part.password or ""),
        db=_database(database if on_socket else path.strip("/") or database),
    )


def _database(text: str) -> int:
    try:
        return int(text or 0)
    except ValueError:
        raise ConfigError(f"a Redis database is a number, not {text!r}") from None


def _tls_context(
    part: SplitResult, query: dict[str, str], tls: Mapping[str, Any] | None
) -> ssl.SSLContext | None:
    """TLS as the URL and `broker_use_ssl` want it; certificates are verified unless they say otherwise."""
    found: dict[str, Any] = {key: query.pop(key) for key in list(query) if key.startswith("ssl_")}
    if found and part.scheme not in _TLS and tls is None:
        raise ConfigError(f"{mask(part.geturl())}: TLS options need rediss:// (or valkeys://)")
    found = {key.removeprefix("ssl_"): value for key, value in (found | dict(tls or {})).items()}
    if unknown := found.keys() - _TLS_OPTIONS:
        raise ConfigError(f"{mask(part.geturl())}: unknown TLS options {', '.join(sorted(unknown))}")
    if part.scheme not in _TLS and tls is None:
        return None
    try:
        return _context(found)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{mask(part.geturl())}: TLS cannot be set up: {error}") from error


def _context(found: Mapping[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(
        cafile=found.get("ca_certs"), capath=found.get("ca_path"), cadata=found.get("ca_data")
    )
    requirement = found.get("cert_reqs", ssl.CERT_REQUIRED)
    if isinstance(requirement, str):
        requirement = _REQUIREMENTS[requirement.lower().removeprefix("cert_")]
    hostname = str(found.get("check_hostname", True)).lower() not in _FALSE
    context.check_hostname = hostname and requirement != ssl.CERT_NONE
    context.verify_mode = requirement
    if found.get("certfile"):
        context.load_cert_chain(found["certfile"], found.get("keyfile"), found.get("password"))
    if found.get("ciphers"):
        context.set_ciphers(found["ciphers"])
    return context
