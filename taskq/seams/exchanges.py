"""Which queues a message reaches through an exchange, for brokers that have no exchanges themselves."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from taskq.errors import OperationalError, PublishErrors, Unroutable
from taskq.seams.broker import BrokerConfig, Queue
from taskq.wire.message import Message


class Addressed(NamedTuple):
    """A message on its way to one queue; `once` is its name there (`Message.once`)."""

    queue: str
    once: str | None
    message: Message


def address(
    messages: Sequence[Message], config: BrokerConfig
) -> tuple[list[Addressed], dict[int, OperationalError]]:
    """Each message for each queue it goes to, and those that go nowhere (index -> error)."""
    addressed: list[Addressed] = []
    failures: dict[int, OperationalError] = {}
    for index, message in enumerate(messages):
        if not message.exchange:
            addressed.append(Addressed(message.routing_key, message.once, message))
        elif queues := bound(message, config):
            # Every copy has a name of its own, or all but the first would pass for sent.
            addressed += (
                Addressed(queue, message.once and f"{message.once}:{queue}", message) for queue in queues
            )
        else:
            failures[index] = Unroutable(
                f"no queue is bound to exchange {message.exchange!r} with routing key {message.routing_key!r}: "
                "declare one in task_queues"
            )
    return addressed, failures


def raise_refused(failures: Mapping[int, OperationalError], count: int) -> None:
    """Raise what became of a batch of `count` messages, if any of them was refused."""
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
        return matches(key.split("."), message.routing_key.split("."))
    return queue.exchange_type == "fanout" or key == message.routing_key


def matches(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """Whether a topic fits: `*` stands for one word, `#` for any number of words."""
    if not pattern:
        return not words
    first, *rest = pattern
    if first == "#":
        return any(matches(rest, words[start:]) for start in range(len(words) + 1))
    return bool(words) and first in {"*", words[0]} and matches(rest, words[1:])
