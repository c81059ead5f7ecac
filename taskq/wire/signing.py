"""Signatures of messages by a shared secret: HMAC-SHA256 over headers, properties and body.

Unlike Celery's `auth` this covers the task's name, id and all other headers, too. It does not keep anyone who can read the
broker from sending a message a second time.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Sequence
from typing import Any

from taskq.errors import UntrustedMessage
from taskq.wire.message import Message

#: The header that carries the signature.
HEADER = "taskq-signature"

#: What brokers and adapters change on the way.
_UNSIGNED = (
    HEADER,
    "redelivered",
    "x-death",
    "x-first-death-",
    "x-last-death-",
    "x-delivery-count",
    "x-taskq-",
)


def sign(messages: Iterable[Message], secrets: Sequence[str]) -> None:
    """Sign messages with the first secret; without any they stay as they are."""
    if secrets:
        for message in messages:
            message.headers[HEADER] = _signature(message, secrets[0])


def verify(message: Message, secrets: Sequence[str]) -> None:
    """Refuse a message that was not signed with one of the secrets; without any all are taken.

    Raises:
        UntrustedMessage: it has no signature or a wrong one.
    """
    if not secrets:
        return
    given = message.headers.get(HEADER)
    if not isinstance(given, str):
        raise UntrustedMessage("refused: it is not signed (security_secrets)")
    try:
        signed = any(
            hmac.compare_digest(given.encode(), _signature(message, key).encode()) for key in secrets
        )
    except (TypeError, ValueError, RecursionError):  # headers that nobody could have signed
        signed = False
    if not signed:
        raise UntrustedMessage("refused: its signature is wrong (security_secrets)")


def _signature(message: Message, secret: str) -> str:
    return hmac.new(secret.encode(), _signed(message), hashlib.sha256).hexdigest()


def _signed(message: Message) -> bytes:
    """What is signed: written the same on both sides, whatever the broker makes of tuples and the order of keys."""
    headers: dict[str, Any] = {
        name: value for name, value in message.headers.items() if not name.startswith(_UNSIGNED)
    }
    parts = [
        message.content_type,
        message.content_encoding,
        message.correlation_id,
        message.reply_to,
        headers,
    ]
    return json.dumps(parts, sort_keys=True, default=str).encode() + b"\0" + message.body
