"""What travels, and what we hold: plain data, mutable because frozen ones cost eight times more to build."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Message:
    """A task message: headers decoded, body still bytes.

    `priority`, `exchange` and `routing_key` are what the sender asked for; an adapter maps them to its broker.
    `due` (Unix seconds, None = at once) repeats the header `eta` for brokers that hold messages back themselves.
    `once` names a message that may be published again after a crash, see `Features.once`; it does not travel.
    """

    headers: dict[str, Any]
    body: bytes
    content_type: str = "application/json"
    content_encoding: str = "utf-8"
    correlation_id: str = ""
    reply_to: str = ""
    priority: int = 0
    delivery_mode: int = 2
    exchange: str = ""
    routing_key: str = "celery"
    due: float | None = None
    once: str | None = None


def id_of(message: Message) -> str:
    """The id of the message's task, by which brokers know it: text that can be written, whatever a broken message has there."""
    return written_id(message.headers.get("id") or message.correlation_id)


def written_id(found: Any) -> str:
    """What stands in the place of an id, as text that can be written."""
    return str(found).encode("utf-8", "backslashreplace").decode()


@dataclass(slots=True, eq=False)
class Delivery:
    """A message in our custody: settle it exactly once.

    `tag` means something only to the consumer that made it. `deaths` tells of earlier holders that died: 1 if any
    did, more if they had blamed this message for it (`Consumer.strike`). `serial` names the message the same at
    each of its deliveries, "" where the broker has no such name. `once` are the names (`Message.once`) of what
    was published because of it: they need not be remembered much longer once it is settled. Compared and hashed
    by identity.
    """

    message: Message
    queue: str
    tag: Any
    redelivered: bool = False
    deaths: int = 0
    serial: str | int = ""
    once: Sequence[str] = ()


@dataclass(slots=True)
class DeadLetter:
    """A message kept because it could not be run, for a person to look at.

    `id` names it within its broker, `at` is when it was put away (Unix seconds), `reason` is one line.
    `raw` holds the bytes as they came when they were not a readable message; `message` is None then.
    """

    id: str
    queue: str
    reason: str
    at: float
    message: Message | None
    raw: bytes = b""
