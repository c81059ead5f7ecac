"""URLs of brokers and result stores: failover lists, and secrets that must not be shown."""

import re
from collections.abc import Mapping
from typing import Any

from taskq.errors import ConfigError

#: What stands for a secret, as Celery prints it.
MASK = "**"

# A `;` separates URLs only before a scheme: a password may hold one too.
_NEXT_URL = re.compile(r";(?=[A-Za-z][A-Za-z0-9+.-]*:)")
_PARTS = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*:(?://)?)(?P<rest>.*?)(?P<query>\?[\w.-]+=.*)?", re.DOTALL
)
_QUERY_PAIR = re.compile(r"([?&;])([^=&;]+)=([^&;]*)")
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
        return url
    query = _QUERY_PAIR.sub(_mask_pair, parts["query"] or "")
    return parts["scheme"] + _mask_password(parts["rest"]) + query


def _mask_password(rest: str) -> str:
    # The last "@": drivers split there too, and it hides an "@" or "/" inside the password. A path that
    # begins at once (sqlite:///) has no user part.
    user_part, at, host_part = rest.rpartition("@")
    user, colon, _ = user_part.partition(":")
    if not at or not colon or rest.startswith("/"):
        return rest
    return f"{user}:{MASK}@{host_part}"


def _mask_pair(pair: re.Match[str]) -> str:
    separator, name, value = pair.groups()
    return f"{separator}{name}={MASK if is_secret(name) and value else mask(value)}"


def store_url(backend: str | None, broker: str) -> str:
    """Results go where the broker is, unless the setting says otherwise: over AMQP by answers (rpc).

    The store of `rpc://` is found by the broker's URL (wire-format.md 4.9).

    Raises:
        ConfigError: `rpc://` without an AMQP broker.
    """
    if backend is None:
        backend = "rpc://" if broker.startswith(("amqp", "pyamqp")) else broker
    if not backend.startswith("rpc://"):
        return backend
    if not broker.startswith(("amqp", "pyamqp")):
        raise ConfigError(f"result_backend rpc:// needs an amqp:// broker, not {mask(broker)}")
    return f"rpc+{broker}"
