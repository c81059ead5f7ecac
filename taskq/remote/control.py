"""Remote control of workers: `app.control` (wire-format.md 8). Celery's names; every verb is awaited."""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypedDict, Unpack

from taskq.canvas.signature import new_id
from taskq.clock import now
from taskq.config.settings import Settings
from taskq.errors import DecodeError
from taskq.seams.app import App
from taskq.seams.broker import REVOKED_FOR
from taskq.seams.bus import Exchange, Inbox
from taskq.wire.control import ControlCommand, read_body, write_command
from taskq.wire.serializers import get_serializer
from taskq.wire.signing import sign, verify

#: What each worker answered: node name -> value.
Reply: TypeAlias = dict[str, Any]

#: A caller's key, ours or Celery's.
#: The most ids that one command revokes.
MOST_REVOKED = 10_000

_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(-?[0-9A-Fa-f]{4}){3}-?[0-9A-Fa-f]{12}")


class ReplyOptions(TypedDict, total=False):
    """Which workers are meant by pattern, and how to wait for their replies; see `Control`."""

    pattern: str | None
    matcher: str | None
    reply: bool
    timeout: float
    limit: int | None
    callback: Callable[[Reply], Any] | None


class Whom(ReplyOptions, total=False):
    """The same, or workers by their node names."""

    destination: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class Mailbox:
    """The addresses of remote control (8.1), from the settings `control_...`; `ttl` and `expires` in seconds."""

    name: str = "celery"
    ttl: float = 300.0
    expires: float = 10.0

    @property
    def requests(self) -> Exchange:
        """Where commands are announced."""
        return Exchange(f"{self.name}.pidbox")

    @property
    def replies(self) -> Exchange:
        """Where workers answer."""
        return Exchange(f"reply.{self.name}.pidbox", "direct")

    def node(self, hostname: str) -> Inbox:
        """A worker's inbox."""
        return Inbox(f"{hostname}.{self.name}.pidbox", self.requests, "", self.ttl, self.expires)

    def caller(self, key: str) -> Inbox:
        """The inbox of one caller's replies."""
        return Inbox(self.replies.reply_inbox(key), self.replies, key, self.ttl, self.expires)

    def is_caller(self, exchange: str, key: str) -> bool:
        """Whether a reply may go there: to our exchange for replies, and a key as callers make them up.

        Whoever can send a command names the address: it could as well be that of a queue of tasks.
        """
        return exchange == self.replies.name and _UUID.fullmatch(key) is not None


def mailbox_of(conf: Settings) -> Mailbox:
    """The addresses, from the settings."""
    return Mailbox(conf.control_exchange, conf.control_queue_ttl, conf.control_queue_expires)


class Control:
    """Commands to workers: `await app.control.ping()`.

    Verbs take `destination` (node names; None = all), or `pattern` with `matcher` ("glob" or "pcre"); and with
    `reply=True` they wait `timeout` seconds (1.0), or for `limit` replies, and return a list of `{node: reply}`;
    without it they return None at once. `callback` is called with each reply as it comes. All raise OperationalError when the broker cannot be reached.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def broadcast(
        self, command: str, arguments: Mapping[str, Any] | None = None, **whom: Unpack[Whom]
    ) -> list[Reply] | None:
        """Send any command, with its arguments by name."""
        destination = whom.get("destination")
        destination = [destination] if isinstance(destination, str) else destination
        sent = ControlCommand(command, arguments or {}, destination, whom.get("pattern"), whom.get("matcher"))
        sent.clock = self._app.clock.forward()
        if not whom.get("reply"):
            # What is signed can be sent again by who reads it: a command is good for a time only.
            ends = now() + self._app.conf.control_queue_ttl if self._app.conf.security_secrets else 0
            await self._send(sent, expires=ends)
            return None
        limit = whom.get("limit") or (len(destination) if destination else None)
        return await self._ask(sent, whom.get("timeout", 1.0), limit, whom.get("callback") or _ignore)

    async def _send(self, command: ControlCommand, *, expires: float) -> None:
        conf = self._app.conf
        mailbox = mailbox_of(conf)
        command.reply_exchange = mailbox.replies.name
        serializer = get_serializer(conf.task_serializer)
        message = write_command(command, serializer, exchange=mailbox.requests.name, expires=expires)
        sign([message], conf.security_secrets)
        await (await self._app.open_broker()).bus.announce(mailbox.requests, [message])

    async def _ask(
        self, command: ControlCommand, wait: float, limit: int | None, callback: Callable[[Reply], Any]
    ) -> list[Reply]:
        command.ticket, command.reply_to = new_id(), new_id()
        bus = (await self._app.open_broker()).bus
        listener = await bus.listen(mailbox_of(self._app.conf).caller(command.reply_to))
        replies: list[Reply] = []
        try:
            await self._send(command, expires=now() + wait)
            async with asyncio.timeout(wait):
                while limit is None or len(replies) < limit:
                    for message in await listener.receive():
                        self._app.clock.adjust(message.headers.get("clock"))
                        if message.headers.get("ticket") == command.ticket and (one := self._read(message)):
                            replies.append(one)
                            callback(one)
        except TimeoutError:
            pass
        finally:
            await listener.close()
        return replies

    def _read(self, message: Any) -> Reply | None:
        try:
            verify(message, self._app.conf.security_secrets)
            return read_body(message, self._app.conf.accept_content)
        except DecodeError:
            return None

    def inspect(
        self,
        destination: Sequence[str] | None = None,
        timeout: float = 1.0,
        *,
        callback: Callable[[Reply], Any] | None = None,
        limit: int | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> "Inspect":
        """Questions to workers: `await app.control.inspect().active()` is `{node: [...]}`, None without answers."""
        asked: Whom = {"destination": destination, "timeout": timeout, "limit": limit, "callback": callback}
        asked |= {"pattern": pattern, "matcher": matcher, "reply": True}
        return Inspect(self, asked)

    async def ping(
        self,
        destination: Sequence[str] | None = None,
        timeout: float = 1.0,  # noqa: ASYNC109 - Celery's signature: what to wait for, not a deadline
    ) -> list[Reply]:
        """Who is there: `[{"celery@host": {"ok": "pong"}}]`."""
        return await self.broadcast("ping", destination=destination, timeout=timeout, reply=True) or []

    # --- tasks ----------------------------------------------------------------------------------------------

    async def revoke(
        self,
        task_id: str | Sequence[str],
        destination: Sequence[str] | None = None,
        *,
        terminate: bool = False,
        signal: str = "SIGTERM",
        expires: float = REVOKED_FOR,
        **whom: Unpack[ReplyOptions],
    ) -> list[Reply] | None:
        """Have tasks not run: they end as REVOKED. The broker remembers it for workers that start later.

        What waits in a worker, or in the broker for its eta, ends at once (RabbitMQ delivers it at its eta); what
        waits in a queue ends when its turn comes.

        Args:
            task_id: one id or several.
            terminate: also end those that run.
            signal: for tasks that run in a process of their own; others are ended by an exception.
            expires: how long it is remembered, in seconds (30 days).
            destination: node names; None = all.
            whom: see the class. Many ids go in several commands; the replies are those to the last one.
        """
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        if not (destination or whom.get("pattern")):
            broker = await self._app.open_broker()
            await broker.revoke(ids, now() + expires)
            await broker.recall(ids)
        rest: dict[str, Any] = {"terminate": terminate, "signal": signal}
        for start in range(0, len(ids) - MOST_REVOKED, MOST_REVOKED):
            some = {"task_id": ids[start : start + MOST_REVOKED], **rest}
            await self.broadcast("revoke", some, destination=destination)
        last = task_id if isinstance(task_id, str) else ids[(len(ids) - 1) // MOST_REVOKED * MOST_REVOKED :]
        return await self.broadcast("revoke", {"task_id": last, **rest}, destination=destination, **whom)

    async def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any],
        destination: Sequence[str] | None = None,
        *,
        terminate: bool = False,
        signal: str = "SIGTERM",
        **whom: Unpack[ReplyOptions],
    ) -> list[Reply] | None:
        """The same for all tasks that carry one of these stamps: `{"tenant": ["acme"]}`."""
        arguments = {"headers": headers, "terminate": terminate, "signal": signal}
        return await self.broadcast("revoke_by_stamped_headers", arguments, destination=destination, **whom)

    async def terminate(
        self,
        task_id: str | Sequence[str],
        destination: Sequence[str] | None = None,
        *,
        signal: str = "SIGTERM",
        **whom: Unpack[ReplyOptions],
    ) -> list[Reply] | None:
        """Revoke tasks and end those that run."""
        return await self.revoke(task_id, destination, terminate=True, signal=signal, **whom)

    async def rate_limit(
        self,
        task_name: str,
        rate_limit: str | float | None,
        destination: Sequence[str] | None = None,
        **whom: Unpack[ReplyOptions],
    ) -> list[Reply] | None:
        """How often each worker may start a task: "10/s", "100/m", "5/h", a number per second; None or 0: no limit."""
        arguments = {"task_name": task_name, "rate_limit": rate_limit}
        return await self.broadcast("rate_limit", arguments, destination=destination, **whom)

    async def time_limit(
        self,
        task_name: str,
        soft: float | None = None,
        hard: float | None = None,
        destination: Sequence[str] | None = None,
        **whom: Unpack[ReplyOptions],
    ) -> list[Reply] | None:
        """New time limits of a task, in seconds, for the runs that begin from now on; None: no limit."""
        arguments = {"task_name": task_name, "hard": hard, "soft": soft}
        return await self.broadcast("time_limit", arguments, destination=destination, **whom)

    # --- workers --------------------------------------------------------------------------------------------

    async def add_consumer(
        self,
        queue: str,
        exchange: str | None = None,
        exchange_type: str = "direct",
        routing_key: str | None = None,
        **whom: Unpack[Whom],
    ) -> list[Reply] | None:
        """Have workers take from one more queue."""
        arguments = {"queue": queue, "exchange": exchange}
        arguments |= {"exchange_type": exchange_type, "routing_key": routing_key}
        return await self.broadcast("add_consumer", arguments, **whom)

    async def cancel_consumer(self, queue: str, **whom: Unpack[Whom]) -> list[Reply] | None:
        """Have workers no longer take from a queue."""
        return await self.broadcast("cancel_consumer", {"queue": queue}, **whom)

    async def enable_events(self, **whom: Unpack[Whom]) -> list[Reply] | None:
        """Have workers send events of their tasks."""
        return await self.broadcast("enable_events", **whom)

    async def disable_events(self, **whom: Unpack[Whom]) -> list[Reply] | None:
        """Have them stop that."""
        return await self.broadcast("disable_events", **whom)

    async def heartbeat(self, **whom: Unpack[Whom]) -> list[Reply] | None:
        """Have workers send a heartbeat event now."""
        return await self.broadcast("heartbeat", **whom)

    async def pool_grow(self, n: int = 1, **whom: Unpack[Whom]) -> list[Reply] | None:
        """Have each worker run `n` more tasks at the same time."""
        return await self.broadcast("pool_grow", {"n": n}, **whom)

    async def pool_shrink(self, n: int = 1, **whom: Unpack[Whom]) -> list[Reply] | None:
        """Have each worker run `n` fewer tasks at the same time."""
        return await self.broadcast("pool_shrink", {"n": n}, **whom)

    async def pool_restart(
        self,
        modules: Sequence[str] | None = None,
        reload: bool = False,  # noqa: FBT001, FBT002 - Celery's argument
        reloader: Any = None,
        **whom: Unpack[Whom],
    ) -> list[Reply] | None:
        """Have Celery's workers start their pools anew; taskq's import nothing at remote request."""
        arguments = {"modules": modules, "reload": reload, "reloader": reloader}
        return await self.broadcast("pool_restart", arguments, **whom)

    async def shutdown(self, **whom: Unpack[Whom]) -> list[Reply] | None:
        """Have workers stop, warmly: running tasks have their grace period."""
        return await self.broadcast("shutdown", **whom)


class Inspect:
    """Questions to workers; each answer is `{node: reply}`, or None when nobody answered in time."""

    def __init__(self, control: Control, asked: Whom) -> None:
        self._control = control
        self._asked = asked

    async def ask(self, command: str, **arguments: Any) -> Reply | None:
        """Any command, with its arguments."""
        replies = await self._control.broadcast(command, arguments, **self._asked)
        return {node: value for reply in replies or () for node, value in reply.items()} or None

    async def ping(self) -> Reply | None:
        """Who is there."""
        return await self.ask("ping")

    async def active(self, *, safe: bool | None = None) -> Reply | None:
        """Tasks that run now; `safe`: arguments as text."""
        return await self.ask("active", safe=safe)

    async def reserved(self) -> Reply | None:
        """Tasks that were received and have not begun."""
        return await self.ask("reserved")

    async def scheduled(self) -> Reply | None:
        """Tasks that wait in workers for their eta."""
        return await self.ask("scheduled")

    async def query_task(self, *ids: str) -> Reply | None:
        """What workers know of these tasks: `{id: [state, info]}`."""
        return await self.ask("query_task", ids=list(ids))

    async def revoked(self) -> Reply | None:
        """Ids that workers were told are revoked."""
        return await self.ask("revoked")

    async def registered(self, *taskinfoitems: str) -> Reply | None:
        """Names of tasks, each with these attributes."""
        return await self.ask("registered", taskinfoitems=taskinfoitems)

    async def stats(self) -> Reply | None:
        """Counters and facts of workers."""
        return await self.ask("stats")

    async def active_queues(self) -> Reply | None:
        """The queues workers take from."""
        return await self.ask("active_queues")

    async def conf(self, *, with_defaults: bool = False) -> Reply | None:
        """Settings of workers; passwords are hidden."""
        return await self.ask("conf", with_defaults=with_defaults)

    async def report(self) -> Reply | None:
        """Versions and settings, for a bug report."""
        return await self.ask("report")

    async def clock(self) -> Reply | None:
        """Their logical clocks."""
        return await self.ask("clock")

    async def memsample(self) -> Reply | None:
        """Memory in use, as text."""
        return await self.ask("memsample")

    async def memdump(self, samples: int = 10) -> Reply | None:
        """What their `memsample` has shown before, as text."""
        return await self.ask("memdump", samples=samples)

    async def objgraph(self, type: str = "Request", n: int = 200, max_depth: int = 10) -> Reply | None:  # noqa: A002 - Celery's argument
        """Have Celery's workers draw their objects; taskq's do not."""
        return await self.ask("objgraph", num=n, max_depth=max_depth, type=type)

    async def hello(self, from_node: str, revoked: Sequence[str] | None = None) -> Reply | None:
        """Exchange revoked ids, as Celery's workers do when they start."""
        return await self.ask("hello", from_node=from_node, revoked=revoked)


def _ignore(_reply: Reply) -> None:
    """No callback."""
