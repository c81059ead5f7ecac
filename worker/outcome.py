"""What a run came to: a decision, not yet an effect."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from taskq.message import Delivery, Message
from taskq.store import TaskResult


class Settle(Enum):
    """How custody of a delivery ends."""

    ACK = "ack"
    REQUEUE = "requeue"
    REJECT = "reject"
    #: It ended before the run: the message was acknowledged early.
    DONE = "done"


@dataclass(slots=True)
class Outcome:
    """The states to store, then the messages to publish, then how to settle; `reason` goes with a rejection."""

    delivery: Delivery
    results: Sequence[TaskResult] = ()
    publish: Sequence[Message] = ()
    settle: Settle = Settle.ACK
    reason: str = ""
