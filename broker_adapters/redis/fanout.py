"""Fanout queues: PUB/SUB, at most once, without custody (wire-format.md 2.8)."""

import asyncio
import os
import re
from collections.abc import Callable, Sequence
from logging import getLogger
from typing import Any, Final

from taskq.broker_adapters.redis.dead import bury
from taskq.broker_adapters.redis.layout import Layout
from taskq.broker_adapters.redis.session import RedisSession
from taskq.clock import now
from taskq.errors import DecodeError
from taskq.seams.broker import Queue
from taskq.wire.envelope import loads
from taskq.wire.message import DeadLetter, Delivery

logger = getLogger(__name__)

#: Characters with a meaning in a Redis pattern.
_GLOB: Final = re.compile(r"([\[\]*?^\\-])")


class Fanout:
    """The subscriptions of one consumer. What arrives goes to `deliver`; so does, later, what is given back."""

    def __init__(self, layout: Layout, queues: Sequence[Queue], deliver: Callable[[Delivery], None]) -> None:
        self._layout = layout
        # A fanout exchange does not look at routing keys: with one or without, it is for us.
        plain = {layout.channel(queue.exchange or queue.name, ""): queue.name for queue in queues}
        self._queues = {channel.encode(): name for channel, name in plain.items()}
        self._queues |= {
            _GLOB.sub(r"\\\1", channel).encode() + b"/*": name for channel, name in plain.items()
        }
        self._channels = list(plain)
        self._deliver = deliver

    async def subscribe(self, session: RedisSession) -> None:
        if self._channels:
            patterns = [name for name in self._queues if name.endswith(b"/*")]
            for future in session.send(("SUBSCRIBE", *self._channels), ("PSUBSCRIBE", *patterns)):
                session.checked(await future)

    def take(self, push: Sequence[Any]) -> None:
        """A message of a channel (`message`) or of a pattern (`pmessage`)."""
        queue = self._queues.get(push[1])
        if queue is None:
            return
        try:
            message = loads(push[-1])
        except DecodeError as error:
            logger.error("dropped an unreadable message of the fanout queue %s: %s", queue, error)  # noqa: TRY400 - no trace of ours
            return
        self._deliver(Delivery(message, queue, None))

    async def bury(self, session: RedisSession, *, rejected: Sequence[tuple[Delivery, str]]) -> None:
        """What was rejected goes to the dead letters, once per consumer that got it."""
        letters = [
            DeadLetter(os.urandom(8).hex(), delivery.queue, reason, now(), delivery.message)
            for delivery, reason in rejected
        ]
        await bury(session, self._layout, letters)

    def deliver_later(self, deliveries: Sequence[tuple[Delivery, float]]) -> None:
        """Nobody else has them: they wait here."""
        loop = asyncio.get_running_loop()
        for delivery, due in deliveries:
            loop.call_later(max(0.0, due - now()), self._deliver, delivery)
