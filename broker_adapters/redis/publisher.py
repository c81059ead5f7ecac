"""Publishing to Redis: one script call for a batch, and no duplicates when a lost answer makes a client try again.

The script writes the number of the batch into a marker of this client, in the same step. Batches of one connection
are taken in order, so after a lost connection the marker tells of each batch under way whether it was taken. If
the connection is not back within the timeout, the caller gets ConnectionLost(maybe_accepted=True), and the task ids
of the batch are remembered: when they are published again, those that were taken are left out.
"""

import asyncio
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any, Final

from taskq.broker_adapters.redis.durability import Durability
from taskq.broker_adapters.redis.layout import Layout
from taskq.broker_adapters.redis.link import RedisLink, is_unknown_script
from taskq.broker_adapters.redis.scripts import PUBLISH, PUBLISH_ONCE
from taskq.broker_adapters.redis.session import KeyRefused, RedisSession, Reply, refusal
from taskq.errors import ConnectionLost, OperationalError, Refused, Unroutable
from taskq.seams.broker import ONCE, BrokerConfig, Queue
from taskq.seams.exchanges import Failures, raise_refused, refuse_size
from taskq.seams.retry import Backoff
from taskq.wire.envelope import dumps
from taskq.wire.message import Message, id_of

#: Seconds the marker outlives the last publish, and how many task ids of doubtful batches are remembered.
KEEP_MARKER: Final = 3600
MOST_DOUBTS: Final = 10_000
#: Queue names remembered as declared; clients that make names up start over.
MOST_NAMES: Final = 10_000
#: Bytes of one script call: more would hold the server too long.
PIECE: Final = 4 << 20

#: The longest pause between two tries to reconnect while a caller waits, in seconds.
LONGEST_PAUSE: Final = 0.2

Lists = defaultdict[str, list[tuple[int, bytes]]]
#: Position in the batch and envelope, by list.
Pushes = Mapping[str, Sequence[tuple[int, bytes]]]


class RedisPublisher:
    """Publishes for one broker object."""

    def __init__(
        self,
        link: RedisLink,
        layout: Layout,
        shown: str,
        config: BrokerConfig,
        durability: Durability | None = None,
    ) -> None:
        self._link = link
        self._layout = layout
        self._shown = shown
        self._queue = config.queue
        self._largest = config.max_message_bytes
        self._timeout = config.publish_timeout
        self._durability = durability
        name = os.urandom(8).hex()
        self._tag = f"{name}-"
        self._marker = layout.own(f"publisher:{name}")
        self._tags = count(1)
        self._number = 0
        self._answered = 0  # the last batch of which it is known what became of it
        # Batches without an answer: None until the marker has been read on a new connection, then whether taken.
        self._doubts: dict[int, bool | None] = {}
        self._doubtful: dict[str, int] = {}
        self._confirming = asyncio.Lock()
        self._declared: set[str] = set()
        self._lists: dict[tuple[str, int], str] = {}

    async def on_connect(self, session: RedisSession) -> None:
        """Before anything else is published on a new connection: what became of the batches on the last one?"""
        self._declared.clear()
        if self._durability is not None:
            await self._durability.check(session, self._shown)
        if any(taken is None for taken in self._doubts.values()):
            marker = int(await session.call("GET", self._marker) or 0)
            for number, taken in self._doubts.items():
                if taken is None:
                    self._doubts[number] = number <= marker

    async def publish(self, messages: Sequence[Message]) -> None:
        pushes: Lists = defaultdict(list)
        failures: Failures = {}
        # Doubts about an earlier try are settled by connecting.
        session = await self._link.session()
        # All before the first is sent: a message that cannot be written is to stop the rest.
        envelopes = [
            dumps(
                message,
                delivery_tag=f"{self._tag}{next(self._tags)}",
                body_encoding=self._layout.body_encoding,
            )
            for message in messages
        ]
        for at, (message, envelope) in enumerate(zip(messages, envelopes, strict=True)):
            if self._doubtful and self._was_taken(message):
                continue
            if (refused := self._refusal(message, envelope)) is not None:
                failures[at] = refused
            elif message.exchange or (key := self._direct(message)) is None:
                await self._route(session, at, message, envelope, pushes, failures)
            else:
                pushes[key].append((at, envelope))
        plain: Pushes = pushes
        if any(message.once is not None for message in messages):
            plain = await self._push_named(pushes, failures, messages)
        await self._push_pieces(plain, failures, messages)
        self._keep_lists({message.routing_key for message in messages})
        if self._durability is not None:
            await self._make_sure(
                self._durability, [message for at, message in enumerate(messages) if at not in failures]
            )
        raise_refused(failures, len(messages))

    def _refusal(self, message: Message, envelope: bytes) -> Refused | None:
        """Why this message can never be sent."""
        too_large = refuse_size(message, len(envelope), self._largest)
        if (
            too_large is not None
            or message.exchange
            or (message.routing_key, message.priority) in self._lists
        ):
            return too_large
        return self._layout.refuse_name(message.routing_key)

    def _keep_lists(self, names: Iterable[str]) -> None:
        expiries = self._layout.expiries(map(self._queue, names))
        if expiries and (session := self._link.live) is not None:
            session.send(*expiries)

    # -- where to

    def _direct(self, message: Message) -> str | None:
        """The list of a message sent straight to a queue; None if that queue is a fanout."""
        where = (message.routing_key, message.priority)
        key = self._lists.get(where)
        if key is None:
            if self._queue(message.routing_key).exchange_type == "fanout":
                return None
            if len(self._lists) > MOST_NAMES:
                self._lists.clear()
            step = self._layout.step(message.priority)
            key = self._lists[where] = self._layout.key(message.routing_key, step)
        return key

    async def _route(
        self,
        session: RedisSession,
        at: int,
        message: Message,
        envelope: bytes,
        pushes: Lists,
        failures: Failures,
    ) -> None:
        """Through an exchange: to every queue that is bound (wire-format.md 2.4)."""
        try:
            if (channel := self._fanout(message)) is not None:
                if await session.call("PUBLISH", channel, envelope) == 0:
                    failures[at] = Unroutable(f"{self._shown}: nobody listens to the fanout {channel!r}")
                return
            queues = await self._bound(session, message)
        except KeyRefused as error:
            failures[at] = Refused(str(error))
            return
        if not queues:
            failures[at] = Unroutable(
                f"{self._shown}: no queue is bound to exchange {message.exchange!r} with routing key"
                f" {message.routing_key!r}: start a worker for it first, or send to a queue"
            )
        for queue in queues:
            pushes[self._layout.key(queue, self._layout.step(message.priority))].append((at, envelope))

    async def _bound(self, session: RedisSession, message: Message) -> list[str]:
        """The queues behind the message's exchange."""
        declared = self._queue(message.routing_key)
        if declared.exchange == message.exchange:
            await self.declare(session, [declared.name])
        members = await session.call("SMEMBERS", self._layout.bindings(message.exchange)[0])
        return self._layout.matches(members, message.routing_key)

    def _fanout(self, message: Message) -> str | None:
        """The channel, if the message is for a queue that is declared as a fanout."""
        for name in (message.routing_key, message.exchange):
            queue = self._queue(name) if name else None
            if queue is not None and queue.exchange_type == "fanout":
                exchange = queue.exchange or queue.name
                if message.exchange in {"", exchange}:
                    return self._layout.channel(exchange, queue.routing_key)
        return None

    async def declare(self, session: RedisSession, queues: Iterable[str]) -> None:
        """Write the bindings of queues: other programs route by them."""
        commands = binding_commands(self._layout, map(self._queue, queues))
        for future in session.send(*commands) if commands else ():
            session.checked(await future)

    def _undeclared(self, messages: Iterable[Message]) -> set[str]:
        """Queues that are sent to for the first time on this connection."""
        new = {message.routing_key for message in messages if not message.exchange} - self._declared
        if len(self._declared) > MOST_NAMES:
            self._declared.clear()
        self._declared |= new
        return new

    # -- sending

    async def _push_named(self, pushes: Pushes, failures: Failures, messages: Sequence[Message]) -> Pushes:
        """Push the messages that are named by `Message.once`; returns the others."""
        rest: Lists = defaultdict(list)
        named: dict[int, tuple[bytes, list[str]]] = {}
        for key, items in pushes.items():
            for at, envelope in items:
                if messages[at].once is None:
                    rest[key].append((at, envelope))
                else:
                    named.setdefault(at, (envelope, []))[1].append(key)
        for some in _pieces({"": [(at, envelope) for at, (envelope, _) in named.items()]}):
            places = [at for at, _ in some[""]]
            args: list[Any] = [ONCE]
            for at in places:
                envelope, lists = named[at]
                args += (envelope, len(lists), *lists)
            replies = await self._until_answered([messages[at] for at in places], args)
            refused = zip(places, replies, strict=True)
            failures.update((at, self._why(why)) for at, why in refused if why)
        return rest

    def _why(self, text: bytes) -> OperationalError | Refused:
        """Why a list took nothing: what is the matter with its key will be so next time, too."""
        error = refusal(text.decode(), self._shown)
        return Refused(str(error)) if isinstance(error, KeyRefused) else error

    async def _until_answered(self, messages: Sequence[Message], args: Sequence[Any]) -> Sequence[bytes]:
        """Send until there is an answer: the names make it safe to do so twice."""
        deadline = asyncio.get_running_loop().time() + self._timeout
        names = [self._layout.own(f"once:{message.once}") for message in messages]
        session = await self._link.session()
        while True:
            try:
                # What becomes of the bindings is not waited for: a key refused there concerns the exchange, not the queue.
                if bindings := binding_commands(self._layout, map(self._queue, self._undeclared(messages))):
                    session.send(*bindings)
                sending = asyncio.ensure_future(PUBLISH_ONCE.run(session, names, args))
                return self._answer(session, await self._reply_by(deadline, session, sending))
            except ConnectionLost as error:
                session = await self._reconnect(error, deadline)

    async def _push_pieces(self, pushes: Pushes, failures: Failures, messages: Sequence[Message]) -> None:
        """Push piece by piece, up to one that fails: what was taken before it must not be sent again."""
        pieces = list(_pieces(pushes))
        for number, piece in enumerate(pieces):
            try:
                await self._push(piece, failures, messages)
            except OperationalError as error:
                if number == 0:
                    raise
                unsent = type(error)(str(error))
                failures |= dict.fromkeys(_places(pieces[number + 1 :]), unsent)
                failures |= dict.fromkeys(_places([piece]), error)
                return

    async def _push(self, pushes: Pushes, failures: Failures, messages: Sequence[Message]) -> None:
        """Push, and list by list where Redis refuses the whole because this user may not use one of them."""
        try:
            await self._push_together(pushes, failures, messages)
        except KeyRefused as error:
            if len(pushes) > 1:
                for key, items in pushes.items():
                    await self._push({key: items}, failures, messages)
                return
            # One list: it is that, unless it is the marker, which is refused for all.
            await self._link.call("EXPIRE", self._marker, KEEP_MARKER)
            failures.update((at, Refused(str(error))) for items in pushes.values() for at, _ in items)

    async def _push_together(self, pushes: Pushes, failures: Failures, messages: Sequence[Message]) -> None:
        chosen = [messages[at] for items in pushes.values() for at, _ in items]
        args: list[Any] = [len(items) for items in pushes.values()]
        for items in pushes.values():
            args += [envelope for _, envelope in items]
        replies = await self._until_known([self._marker, *pushes], args, chosen)
        for items, refused in zip(pushes.values(), replies, strict=True):
            if refused:
                error = self._why(refused)
                failures.update((at, error) for at, _ in items)

    async def _until_known(
        self, keys: Sequence[str], args: Sequence[Any], messages: Sequence[Message]
    ) -> Sequence[bytes]:
        """Send until it is known what became of it; returns why each list refused, b"" for those that did not."""
        deadline = asyncio.get_running_loop().time() + self._timeout
        session = await self._link.session()
        while True:
            self._number = number = self._number + 1
            bindings = binding_commands(self._layout, map(self._queue, self._undeclared(messages)))
            future, *_ = session.send(PUBLISH.command(keys, (number, KEEP_MARKER, *args)), *bindings)
            try:
                reply = await self._reply_by(deadline, session, future)
            except asyncio.CancelledError:
                self._remember(number, messages, future)
                raise
            if is_unknown_script(reply):
                await session.call("SCRIPT", "LOAD", PUBLISH.text)
            elif not isinstance(reply, ConnectionLost):
                self._answered = number
                return self._answer(session, reply)
            else:
                self._remember(number, messages, None)
                session = await self._reconnect(reply, deadline)
                for message in messages:
                    self._doubtful.pop(_name(message), None)
                if self._doubts.pop(number):
                    self._answered = number
                    return [b""] * (len(keys) - 1)

    async def _reply_by(self, deadline: float, session: RedisSession, future: asyncio.Future[Reply]) -> Reply:
        """The reply; a connection that has none in time is given up, so that the next try does not wait for it, too."""
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(future)
        except TimeoutError:
            session.abort(f"a publish was not confirmed within {self._timeout:g} s")
            return await future

    async def _make_sure(self, durability: Durability, taken: Sequence[Message]) -> None:
        number = self._answered
        try:
            async with self._confirming:  # one after the other: Redis would let the waits add up
                await self._link.once(
                    partial(durability.confirm, marker=self._marker, keep=KEEP_MARKER, shown=self._shown)
                )
        except OperationalError as error:
            # Sent again they are waited for again, and not taken twice. Another master may not have them.
            self._remember(number, taken, None)
            if not isinstance(error, ConnectionLost):
                self._doubts[number] = True
            raise type(error)(str(error), maybe_accepted=True) from error

    def _answer(self, session: RedisSession, reply: Reply) -> Sequence[bytes]:
        try:
            answer: Sequence[bytes] = session.checked(reply)
        except ConnectionLost as error:
            session.abort(str(error))  # a living server that is no master: look for the master next time
            raise
        return answer

    async def _reconnect(self, lost: ConnectionLost, deadline: float) -> RedisSession:
        """A new session within the deadline; what it raises says that the message may have been accepted."""
        pauses, problem = Backoff(longest=LONGEST_PAUSE), ""
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    try:
                        return await self._link.session()
                    except OperationalError as error:
                        problem = f"; {error}"
                    await asyncio.sleep(pauses.next())
        except TimeoutError:
            raise ConnectionLost(f"{lost}{problem}", maybe_accepted=True) from lost

    def _remember(
        self, number: int, messages: Iterable[Message], future: asyncio.Future[Reply] | None
    ) -> None:
        """These messages may have been taken with this batch: the marker, or a late answer, will tell."""
        self._doubts[number] = None
        self._doubtful.update((_name(message), number) for message in messages)
        while len(self._doubtful) > MOST_DOUBTS:
            del self._doubtful[next(iter(self._doubtful))]
        if len(self._doubts) > MOST_DOUBTS:
            wanted = set(self._doubtful.values())
            self._doubts = {key: taken for key, taken in self._doubts.items() if key in wanted}
        if future is not None:
            future.add_done_callback(lambda done: self._late_answer(number, done.result()))

    def _late_answer(self, number: int, reply: Reply) -> None:
        if not isinstance(reply, ConnectionLost) and number in self._doubts:
            self._doubts[number] = isinstance(reply, list) and not any(reply)

    def _was_taken(self, message: Message) -> bool:
        """Whether an earlier try of this very message was taken after all. Asked once: it is forgotten then."""
        number = self._doubtful.pop(_name(message), None)
        return number is not None and self._doubts.get(number) is True


def binding_commands(layout: Layout, queues: Iterable[Queue]) -> list[tuple[str, str, str]]:
    """The SADDs that bind these queues, for both of kombu's sets (wire-format.md 2.1)."""
    commands = []
    for queue in queues:
        exchange, member = layout.binding(queue)
        commands += [("SADD", key, member) for key in layout.bindings(exchange)]
    return commands


def _name(message: Message) -> str:
    # A retry has the same task id, and is another message.
    return f"{id_of(message)}/{message.headers.get('retries', 0)}"


def _places(pieces: Iterable[Pushes]) -> list[int]:
    return [at for piece in pieces for items in piece.values() for at, _ in items]


def _pieces(pushes: Mapping[str, Sequence[tuple[int, bytes]]]) -> Iterable[Pushes]:
    """The batch as it is, or in pieces of about PIECE bytes, in order."""
    piece: dict[str, list[tuple[int, bytes]]] = {}
    size = 0
    for key, items in pushes.items():
        for item in items:
            if size > PIECE:
                yield piece
                piece, size = {}, 0
            piece.setdefault(key, []).append(item)
            size += len(item[1])
    if piece:
        yield piece
