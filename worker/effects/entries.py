"""What the completer takes beside outcomes, and what it works with."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from taskq.seams.broker import Broker, Consumer
from taskq.seams.store import ResultStore
from taskq.wire.message import Delivery
from taskq.wire.result import TaskResult


@dataclass(frozen=True, slots=True)
class Links:
    """Broker and result store, opened, and the consumer that makes the deliveries."""

    broker: Broker
    store: ResultStore
    consumer: Consumer


@final
@dataclass(slots=True, eq=False)
class Record:
    """A state to store in between: `done` when it is."""

    results: Sequence[TaskResult]
    done: "asyncio.Future[None] | None" = None


@final
@dataclass(slots=True, eq=False)
class EarlyAck:
    """A delivery to acknowledge before its run (`acks_late=False`): `done` when the broker has it."""

    delivery: Delivery
    done: "asyncio.Future[None] | None" = None
