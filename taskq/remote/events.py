"""Events of workers and tasks: `app.events` (wire-format.md 7)."""

import os
import socket
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from logging import getLogger
from typing import Any, TypeAlias

from taskq.canvas.signature import new_id
from taskq.clock import LamportClock, now
from taskq.config.settings import Settings
from taskq.errors import DecodeError, OperationalError
from taskq.seams.app import App
from taskq.seams.bus import Exchange, Inbox
from taskq.wire.message import Message
from taskq.wire.serializers import bounded, get_serializer, require_accepted
from taskq.wire.values import MAX_VALUES

logger = getLogger(__name__)

#: One event: `type`, `hostname`, `pid`, `clock`, `timestamp`, `utcoffset` and what its type has (7.2).
Event: TypeAlias = dict[str, Any]


class EventWriter:
    """Makes the events of one sender."""

    def __init__(self, conf: Settings, clock: LamportClock, hostname: str) -> None:
        self._clock = clock
        self._serializer = get_serializer(conf.event_serializer)
        self.exchange = exchange_of(conf)
        self._common = {"hostname": hostname, "utcoffset": -time.timezone / 3600, "pid": os.getpid()}
        self._headers = {"hostname": hostname}

    def event(self, kind: str, fields: Mapping[str, Any]) -> Event:
        """An event as of now."""
        return {
            **self._common,
            "clock": self._clock.forward(),
            **fields,
            "timestamp": now(),
            "type": kind,
        }

    def message(self, event: Event) -> Message:
        """One event, on its own: `worker-online` goes out as `worker.online`."""
        return self._message(event, event["type"].replace("-", "."))

    def batch(self, events: Sequence[Event]) -> Message:
        """Several events of tasks together."""
        return self._message(events, "task.multi")

    def _message(self, content: Any, routing_key: str) -> Message:
        return Message(
            dict(self._headers),
            self._serializer.dumps(content),
            self._serializer.content_type,
            self._serializer.content_encoding,
            exchange=self.exchange.name,
            routing_key=routing_key,
            delivery_mode=1,
        )


class Events:
    """What workers tell: `async for event in app.events.receive(): ...`."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._writer: EventWriter | None = None

    async def receive(self, pattern: str = "#", *, wakeup: bool = True) -> AsyncGenerator[Event, None]:
        """Every event from now on, as long as you ask for the next.

        Args:
            pattern: of which types, with dots: "worker.#", "task.#" ("#" is any).
            wakeup: ask workers for a heartbeat first, so that they tell who they are.

        Raises:
            OperationalError: the broker could not be reached.
        """
        conf = self._app.conf
        name = f"{conf.event_queue_prefix}.{new_id()}"
        inbox = Inbox(name, exchange_of(conf), pattern, conf.event_queue_ttl, conf.event_queue_expires)
        listener = await (await self._app.open_broker()).bus.listen(inbox)
        try:
            if wakeup:
                await self._app.control.heartbeat()
            while messages := await listener.receive():
                for message in messages:
                    for event in self._read(message):
                        yield event
        finally:
            await listener.close()

    async def capture(self, handlers: Mapping[str, Any], *, wakeup: bool = True) -> None:
        """Call the handler of each event's type, or that of "*", with the event; until cancelled."""
        async with aclosing(self.receive(wakeup=wakeup)) as events:
            async for event in events:
                handler = handlers.get(event["type"]) or handlers.get("*")
                if handler is not None:
                    handler(event)

    def _read(self, message: Message) -> list[Event]:
        try:
            require_accepted(message.content_type, {*self._app.conf.accept_content, "json"})
            content = bounded(get_serializer(message.content_type), MAX_VALUES).loads(message.body)
        except DecodeError as error:
            logger.warning("dropped an unreadable event: %s", error)
            return []
        several = content if isinstance(content, list) else [content]
        events = [
            event for event in several if isinstance(event, dict) and isinstance(event.get("type"), str)
        ]
        for event in events:
            self._app.clock.adjust(event.get("clock"))
        return events

    async def send(self, kind: str, **fields: Any) -> None:
        """Send an event of your own. Raises OperationalError."""
        writer = self._own_writer()
        broker = await self._app.open_broker()
        await broker.bus.announce(writer.exchange, [writer.message(writer.event(kind, fields))])

    async def sent(self, messages: Sequence[Message], queue: str | None = None) -> None:
        """Tell of tasks that were sent, with `task_send_sent_event`. What cannot be told is let go."""
        writer = self._own_writer()
        told = [
            writer.message(writer.event("task-sent", sent_fields(message, queue))) for message in messages
        ]
        try:
            await (await self._app.open_broker()).bus.announce(writer.exchange, told)
        except OperationalError as error:
            logger.warning("events of sent tasks are lost: %s", error)

    def _own_writer(self) -> EventWriter:
        if self._writer is None:
            name = f"gen{os.getpid()}@{socket.gethostname()}"
            self._writer = EventWriter(self._app.conf, self._app.clock, name)
        return self._writer


def sent_fields(message: Message, queue: str | None) -> dict[str, Any]:
    """What `task-sent` tells of a message."""
    headers = message.headers
    plain = {name: headers.get(name) for name in ("root_id", "parent_id", "retries", "eta", "expires")}
    return {
        "uuid": headers.get("id"),
        "name": headers.get("task"),
        "args": headers.get("argsrepr"),
        "kwargs": headers.get("kwargsrepr"),
        **plain,
        "queue": queue or message.routing_key,
        "exchange": message.exchange,
        "routing_key": message.routing_key,
    }


def exchange_of(conf: Settings) -> Exchange:
    """Where events are announced."""
    return Exchange(conf.event_exchange, "topic", durable=True)
