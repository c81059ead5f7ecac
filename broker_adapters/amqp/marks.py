"""What delays and dead lettering leave on a message, read and taken off. Pure."""

from collections.abc import Mapping
from typing import Any

from taskq.broker_adapters.amqp.delay import plain_key
from taskq.seams.broker import Queue
from taskq.wire.message import Message

#: Where the exact time goes: the delays count whole seconds, the consumer waits for the rest of the last one.
DUE_HEADER = "x-taskq-due"
#: Begins the name of a queue that holds a copy (amqp_holds), and tells a returned message from one that expired elsewhere.
PREFIX = "taskq.hold."
#: Where RabbitMQ names the queue that a returned copy lay in.
HOLD_HEADER = "x-first-death-queue"


def is_delayed(message: Message) -> bool:
    """Whether the message came through the delays, ours or Celery's."""
    return message.exchange.startswith("celery_delayed_") or DUE_HEADER in message.headers


def undelay(message: Message, queue: Queue) -> float:
    """Take off what the delays put on a message of this queue; returns when it is due."""
    due = message.headers.pop(DUE_HEADER, 0.0)
    message.headers = without_deaths(message.headers)
    if message.exchange.startswith("celery_delayed_"):
        direct = queue.exchange_type == "direct"
        message.exchange = "" if direct else queue.exchange or queue.name
        message.routing_key = queue.name if direct else plain_key(message.routing_key)
    return due if isinstance(due, int | float) else 0.0


def came_back(message: Message) -> bool:
    """Whether this is a copy that its holder no longer has; the marks of that are taken off."""
    first = message.headers.get(HOLD_HEADER)
    if not isinstance(first, str) or not first.startswith(PREFIX):
        return False
    message.headers = without_deaths(message.headers)
    return True


def without_deaths(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers without those of dead lettering.

    RabbitMQ sees a cycle in a message that is published again with them (wire-format.md 1.3).
    """
    return {
        key: value
        for key, value in headers.items()
        if key != "x-death" and not key.startswith(("x-first-death-", "x-last-death-"))
    }
