"""Which queues a message reaches through an exchange, for brokers that have no exchanges themselves.

The one rule of topics for all of them is AMQP's: a queue bound by `a.#` gets what is sent with the key `a`, too.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from taskq.errors import OperationalError, PublishErrors, Refused, Unroutable
from taskq.seams.broker import BrokerConfig, Queue
from taskq.seams.bus import Inbox
from taskq.wire.envelope import dumps
from taskq.wire.message import Message
from taskq.wire.serializers import json_dumps

#: What became of the messages of a batch that were not taken, by their index.
Failures = dict[int, OperationalError | Refused]


class Addressed(NamedTuple):
    """A message on its way to one queue, written as an envelope; `once` is its name there (`Message.once`)."""

    queue: str
    once: str | None
    message: Message
    raw: bytes


def address(messages: Sequence[Message], config: BrokerConfig) -> tuple[list[Addressed], Failures]:
    """Each message, written, for each queue it goes to, and those that go nowhere (index -> error).

    Raises:
        EncodeError: one of them cannot be written.
    """
    addressed: list[Addressed] = []
    failures: Failures = {}
    for index, message in enumerate(messages):
        raw = dumps(message, delivery_tag="")
        if (refusal := refuse_size(message, len(raw), config.max_message_bytes)) is not None:
            failures[index] = refusal
        elif not message.exchange and not message.routing_key:
            failures[index] = Refused(
                "a message without an exchange and without a routing key goes to no queue"
            )
        elif not message.exchange:
            addressed.append(Addressed(message.routing_key, message.once, message, raw))
        elif queues := bound(message, config):
            # Every copy has a name of its own, or all but the first would pass for sent.
            addressed += (
                Addressed(queue, message.once and f"{message.once}:{queue}", message, raw) for queue in queues
            )
        else:
            failures[index] = Unroutable(
                f"no queue is bound to exchange {message.exchange!r} with routing key {message.routing_key!r}: "
                "declare one in task_queues"
            )
    return addressed, failures


async def publish_sendable(
    messages: Sequence[Message], config: BrokerConfig, publish: Callable[[Sequence[Message]], Awaitable[None]]
) -> None:
    """Publish by `publish`, where the broker does its own writing and routing, what is not refused for its size or name.

    Raises:
        As `Queues.publish`.
    """
    failures: Failures = {}
    for index, message in enumerate(messages):
        size = size_of(message)
        if (refused := refuse_size(message, size, config.max_message_bytes)) is not None:
            failures[index] = refused
        elif not message.exchange and not message.routing_key:
            failures[index] = _nowhere()
    if not failures:
        await publish(messages)
        return
    places = [index for index in range(len(messages)) if index not in failures]
    try:
        if places:
            await publish([messages[index] for index in places])
    except PublishErrors as errors:
        failures |= {places[index]: error for index, error in errors.failures.items()}
    except (OperationalError, Refused) as error:
        failures |= dict.fromkeys(places, error)
    raise_refused(failures, len(messages))


def _nowhere() -> Refused:
    return Refused("a message without an exchange and without a routing key goes to no queue")


def refuse_size(message: Message, written: int, most: int) -> Refused | None:
    """Whether a message, which has so many bytes when it is `written`, is too large to be sent.

    Its headers and its body count, not what the form of writing adds.
    """
    if written <= most or (size := size_of(message)) <= most:
        return None
    return Refused(
        f"a message of {size:,} bytes ({len(message.body):,} of them its body) is larger than max_message_bytes"
        f" ({most:,}): send a reference to the data instead, or raise the setting here and at the workers"
    )


def size_of(message: Message) -> int:
    """The bytes of a message, its headers and its body, however they are written.

    Raises:
        EncodeError: a header cannot be written.
    """
    return len(message.body) + len(json_dumps(message.headers, doubtful=message.headers))


def raise_refused(failures: Mapping[int, OperationalError | Refused], count: int) -> None:
    """Raise what became of a batch of `count` messages, if any of them was not taken."""
    if failures:
        raise PublishErrors(failures) if count > 1 else failures[0]


def bound(message: Message, config: BrokerConfig) -> list[str]:
    """The queues behind the message's exchange; one that is not declared has an exchange of its own name."""
    known: Iterable[Queue] = (*config.queues(), config.queue(message.routing_key))
    return list(dict.fromkeys(queue.name for queue in known if reaches(message, queue)))


def reaches(message: Message, queue: Queue) -> bool:
    if message.exchange != (queue.exchange or queue.name):
        return False
    key = queue.routing_key or queue.name
    if queue.exchange_type == "topic":
        return fits(key, message.routing_key)
    return queue.exchange_type == "fanout" or key == message.routing_key


def takes(inbox: Inbox, routing_key: str) -> bool:
    """Whether a message of this key, announced to the inbox's exchange, is for it."""
    if inbox.exchange.kind == "topic":
        return fits(inbox.key, routing_key)
    return inbox.exchange.kind == "fanout" or routing_key == inbox.key


def fits(pattern: str, key: str) -> bool:
    """Whether a topic fits a pattern: `*` stands for one word, `#` for any number of words, also none."""
    if pattern == "#":
        return True
    reached = {0}  # how many words the part of the pattern so far may have taken
    words = key.split(".")
    for wanted in pattern.split("."):
        if wanted == "#":
            reached = set(range(min(reached), len(words) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(words) and wanted in {"*", words[at]}}
        if not reached:
            return False
    return len(words) in reached
