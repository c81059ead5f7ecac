"""Signatures by a shared secret: HMAC-SHA256 over messages of tasks and of remote control, and over parts of chords.

Unlike Celery's `auth` this covers the task's name, id and all other headers, where a message goes and how urgent it is. It
does not keep anyone who can read the broker from sending a message a second time to the same queue.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from taskq.errors import UntrustedMessage
from taskq.wire.message import Message

#: The header that carries the signature.
HEADER = "taskq-signature"
#: The header that says where its sender sent it, and how urgent: brokers may change exchange and key on the way.
ROUTE = "taskq-route"

#: What brokers and adapters add or change on the way: these names and no others that begin like them.
_UNSIGNED = frozenset(
    (
        HEADER,
        "redelivered",
        "x-death",
        "x-first-death-exchange",
        "x-first-death-queue",
        "x-first-death-reason",
        "x-last-death-exchange",
        "x-last-death-queue",
        "x-last-death-reason",
        "x-delivery-count",
        "x-acquired-count",
        "x-taskq-due",
    )
)


def sign(messages: Iterable[Message], secrets: Sequence[str]) -> None:
    """Sign messages with the first secret; without any they stay as they are."""
    if secrets:
        for message in messages:
            message.headers[ROUTE] = [message.exchange, message.routing_key, _level(message)]
            message.headers[HEADER] = _digest(_signed(message), secrets[0])


def verify(message: Message, secrets: Sequence[str]) -> None:
    """Refuse a message that was not signed with one of the secrets; without any all are taken.

    Raises:
        UntrustedMessage: it has no signature or a wrong one, or comes with another priority than it was sent with.
    """
    if not secrets:
        return
    given = message.headers.get(HEADER)
    if not isinstance(given, str):
        raise UntrustedMessage("refused: it is not signed (security_secrets)")
    try:
        signed = _is_signed(_signed(message), given, secrets)
    except (TypeError, ValueError, RecursionError):  # headers that nobody could have signed
        signed = False
    if not signed:
        raise UntrustedMessage("refused: its signature is wrong (security_secrets)")
    if sent_to(message)[2] != _level(message):
        raise UntrustedMessage(
            f"refused: its priority is {message.priority}, not that it was signed with (security_secrets)"
        )


def sent_to(message: Message) -> tuple[str, str, int]:
    """Exchange, routing key and priority a verified message was signed with. Raises UntrustedMessage if none are told."""
    route = message.headers.get(ROUTE)
    if not isinstance(route, list | tuple) or len(route) != 3:
        raise UntrustedMessage("refused: its signature does not say where it was sent (security_secrets)")
    exchange, routing_key, priority = route
    return str(exchange), str(routing_key), int(priority)


def sign_part(about: Mapping[str, str], data: bytes, secrets: Sequence[str]) -> str:
    """The signature of a part of a chord: of what it is about (its chord, task and state) and its value."""
    return _digest(_part(about, data), secrets[0])


def part_is_signed(about: Mapping[str, str], data: bytes, given: str, secrets: Sequence[str]) -> bool:
    """Whether one of the secrets has signed this part of a chord."""
    return _is_signed(_part(about, data), given, secrets)


def _level(message: Message) -> int:
    return min(max(message.priority, 0), 255)  # what every broker can carry


def _is_signed(data: bytes, given: str, secrets: Sequence[str]) -> bool:
    return any(hmac.compare_digest(given.encode(), _digest(data, key).encode()) for key in secrets)


def _digest(data: bytes, secret: str) -> str:
    return hmac.new(secret.encode(), data, hashlib.sha256).hexdigest()


def _signed(message: Message) -> bytes:
    """What is signed: written the same on both sides, whatever the broker makes of tuples and the order of keys."""
    headers: dict[str, Any] = {
        name: value for name, value in message.headers.items() if name not in _UNSIGNED
    }
    parts = [
        message.content_type,
        message.content_encoding,
        message.correlation_id,
        message.reply_to,
        headers,
    ]
    return json.dumps(parts, sort_keys=True, default=str).encode() + b"\0" + message.body


def _part(about: Mapping[str, str], data: bytes) -> bytes:
    # An object at the top where messages have an array: neither passes for the other.
    return json.dumps(about, sort_keys=True).encode() + b"\0" + data
