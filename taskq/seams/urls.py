"""URLs of brokers and result stores: what serves which scheme, failover lists, and secrets that must not be shown."""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from taskq.errors import ConfigError


class Scheme(NamedTuple):
    """What serves a URL scheme, as `module:Class`, "" for nothing; and what the driver calls the scheme.

    With `replies` results go from the worker straight to the caller where nothing else is set.
    """

    broker: str = ""
    store: str = ""
    ledger: str = ""
    driver: str = ""
    replies: bool = False


_ADAPTERS: Final = "taskq.broker_adapters"
_MEMORY: Final = (
    f"{_ADAPTERS}.memory.broker:MemoryBroker",
    f"{_ADAPTERS}.memory.store:MemoryStore",
    f"{_ADAPTERS}.memory.ledger:MemoryLedger",
)
_SQLITE: Final = (
    f"{_ADAPTERS}.sqlite.broker:SqliteBroker",
    f"{_ADAPTERS}.sqlite.store:SqliteStore",
    f"{_ADAPTERS}.sqlite.ledger:SqliteLedger",
)
_REDIS: Final = (
    f"{_ADAPTERS}.redis.broker:RedisBroker",
    f"{_ADAPTERS}.redis.store:RedisStore",
    f"{_ADAPTERS}.redis.ledger:RedisLedger",
)
_AMQP: Final = f"{_ADAPTERS}.amqp.broker:AmqpBroker"
_RPC: Final = f"{_ADAPTERS}.amqp.results:RpcStore"

#: Every scheme there is. Others register under the entry-point groups `taskq.brokers`, `taskq.stores` and `taskq.ledgers`.
SCHEMES: dict[str, Scheme] = {
    "memory": Scheme(*_MEMORY),
    "sqlite": Scheme(*_SQLITE),
    "redis": Scheme(*_REDIS, driver="redis"),
    "rediss": Scheme(*_REDIS, driver="rediss"),
    "redis+socket": Scheme(*_REDIS, driver="unix"),
    "valkey": Scheme(*_REDIS, driver="redis"),
    "valkeys": Scheme(*_REDIS, driver="rediss"),
    "valkey+socket": Scheme(*_REDIS, driver="unix"),
    "sentinel": Scheme(*_REDIS, driver="redis"),
    "amqp": Scheme(_AMQP, driver="amqp", replies=True),
    "amqps": Scheme(_AMQP, driver="amqps", replies=True),
    "pyamqp": Scheme(_AMQP, driver="amqp", replies=True),
    "rpc+amqp": Scheme(store=_RPC),
    "rpc+amqps": Scheme(store=_RPC),
    "rpc+pyamqp": Scheme(store=_RPC),
    "disabled": Scheme(store=f"{_ADAPTERS}.disabled:DisabledStore"),
}


def scheme_of(url: str) -> str:
    """What stands before `://`."""
    return url.partition("://")[0]


def check_url(url: str) -> None:
    """Refuse what no driver reads as it was meant, before one prints a part of it.

    Raises:
        ConfigError: a line feed or another control character, or a password that is not percent-encoded.
    """
    if any(character < " " or character == "\x7f" for character in url):
        raise ConfigError(
            f"{mask(url)!r}: a line feed or another control character is in the URL; remove it"
            " (a secret that is read from a file often ends in one)"
        )
    for one in split_urls(url):
        if _is_torn(one):
            raise ConfigError(
                f"{mask(one)} cannot be read: in a user name or password '/', '#', '?' and '@' are to be"
                " percent-encoded (%2F, %23, %3F, %40), in a path '@' too; and a port is a number"
            )


def _is_torn(url: str) -> bool:
    """Whether a bare `/`, `#` or `?` has cut the part before the host short, or the port is none."""
    scheme, found, rest = url.partition("://")
    if not found or not rest or rest.startswith("/") or scheme == "memory":  # its name is any text
        return False
    host, _, port = (
        re.split("[/?#]", rest, maxsplit=1)[0].rpartition("@")[2].rpartition("]")[2].partition(":")
    )
    if port and not (port.isascii() and port.isdecimal()):
        return True
    try:
        parts = urlsplit(url)
    except ValueError:
        return True
    return "@" not in parts.netloc and (
        "@" in parts.path or "@" in parts.fragment or (":" in parts.netloc and not host and "@" in rest)
    )


#: What stands for a secret, as Celery prints it.
MASK = "**"

# A `;` separates URLs only before a scheme: a password may hold one too.
_NEXT_URL = re.compile(r";(?=[A-Za-z][A-Za-z0-9+.-]*:)")
_PARTS = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*:(?://)?)(?P<rest>.*?)(?P<query>\?[\w.-]+=.*)?", re.DOTALL
)
# An "@" in a query that is not that of a URL in it.
_STRAY_AT = re.compile(r"(?:^|[?&;])[^=&;]*=(?![^&;]*://)[^&;]*@")
_QUERY_PAIR = re.compile(r"([?&;])([^=&;]+)=([^&;]*)")
#: Schemes whose URLs name a file.
_OF_FILES = ("sqlite:", "redis+socket:", "file:")
_SECRET_NAME = re.compile(
    r"passw|passphrase|pwd|secret|token|credential|(api|access|account|private|signing)_?key$", re.IGNORECASE
)


def split_urls(url: str) -> list[str]:
    """The URLs of a `;`-separated failover list, in order."""
    return [part for part in _NEXT_URL.split(url.strip()) if part]


def mask(url: str) -> str:
    """The URL, or `;`-separated URLs, with every password replaced by `**`, fit for logs and errors.

    Hidden are the password before `@` and the values of query keys that name a secret. Where a password was
    not percent-encoded and the border is in doubt, more is hidden rather than less.

    >>> mask("redis://:s3cret@localhost:6379/0")
    'redis://:**@localhost:6379/0'
    """
    return ";".join(_mask_one(part) for part in split_urls(url))


def is_secret(name: str) -> bool:
    """Whether a setting, option or query key of this name holds a secret."""
    return _SECRET_NAME.search(name) is not None


def mask_value(name: str, value: Any) -> Any:
    """A setting's value fit to be shown: secrets by name and passwords in URLs hidden, at any depth."""
    if isinstance(value, Mapping):
        return {key: mask_value(str(key), inner) for key, inner in value.items()}
    if is_secret(name):
        return MASK if value else value
    if isinstance(value, list | tuple):
        return type(value)([mask_value(name, inner) for inner in value])
    if isinstance(value, str) and "://" in value:
        return mask(value)
    return value


def _mask_one(url: str) -> str:
    parts = _PARTS.fullmatch(url)
    if parts is None:
        return _mask_password("", url)
    scheme, rest, query = parts["scheme"], parts["rest"], parts["query"] or ""
    if _STRAY_AT.search(query):  # the password had a "?" in it, and a "=" behind that
        return scheme + _mask_password(scheme, rest + query)
    return scheme + _mask_password(scheme, rest) + _QUERY_PAIR.sub(_mask_pair, query)


def _mask_password(scheme: str, rest: str) -> str:
    # The last "@": drivers split there too, and it hides an "@" or "/" inside the password. The path of a file has no user.
    user_part, at, host_part = rest.rpartition("@")
    if not at or (rest.startswith("/") and scheme.startswith(_OF_FILES)):
        return rest
    user, colon, _ = user_part.partition(":")
    if colon:
        return f"{user}:{MASK}@{host_part}"
    # `user@host` behind a whole scheme; without one (`user:password@host`) what stands before the "@" is the password.
    return rest if scheme.endswith("//") and "/" not in user_part else f"{MASK}@{host_part}"


def _mask_pair(pair: re.Match[str]) -> str:
    separator, name, value = pair.groups()
    return f"{separator}{name}={MASK if is_secret(name) and value else mask(value)}"


def store_url(backend: str | None, broker: str) -> str:
    """Results go where the broker is, unless the setting says otherwise: over AMQP by replies (rpc).

    The store of `rpc://` is found by the broker's URL (wire-format.md 4.9).

    Raises:
        ConfigError: `rpc://` without an AMQP broker.
    """
    replies = SCHEMES.get(scheme_of(broker), Scheme()).replies
    if backend is None:
        backend = "rpc://" if replies else broker
    if not backend.startswith("rpc://"):
        return backend
    if not replies:
        raise ConfigError(f"result_backend rpc:// needs an amqp:// broker, not {mask(broker)}")
    return f"rpc+{broker}"
