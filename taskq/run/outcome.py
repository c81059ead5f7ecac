"""What a run came to: a decision, not yet an effect."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from hashlib import blake2b

from taskq.wire.message import Delivery, Message
from taskq.wire.protocol import task_id_of
from taskq.wire.result import TaskResult


class Settle(Enum):
    """How custody of a delivery ends."""

    ACK = "ack"
    REQUEUE = "requeue"
    REJECT = "reject"
    #: It ended before the run: the message was acknowledged early.
    DONE = "done"


@dataclass(slots=True)
class FollowUps:
    """What is to be sent after a run: messages, chords to begin before them and chords that have ended with them."""

    messages: list[Message] = field(default_factory=list)
    begun: dict[str, int] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)

    def add(self, other: "FollowUps") -> None:
        """Take in another's."""
        self.messages += other.messages
        self.begun |= other.begun
        self.ended += other.ended


@dataclass(slots=True)
class Outcome:
    """The states to store, then what follows, then how to settle; `reason` goes with a rejection.

    `died`: the run took its process with it, which counts as a death of its message.
    """

    delivery: Delivery
    results: Sequence[TaskResult] = ()
    follow: FollowUps | None = None
    settle: Settle = Settle.ACK
    reason: str = ""
    died: bool = False


# --- names against duplicates (`Message.once`): made here, so that no sender can take the name of another's ---


def once_name(*parts: object) -> str:
    """A name that only these parts lead to."""
    return blake2b(repr(parts).encode("utf-8", "backslashreplace"), digest_size=20).hexdigest()


def name_of(delivery: Delivery) -> str:
    """Names a delivery, the same each time it is delivered.

    Its serial alone would not do: on Redis it is what the sender says, and a message with the serial of another would
    silence what follows that. With the task's id, its retries and its body only a copy has the same name.
    """
    message = delivery.message
    about = (delivery.serial, delivery.queue, task_id_of(message), message.headers.get("retries"))
    return once_name(about, blake2b(message.body, digest_size=20).digest())
