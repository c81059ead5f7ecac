"""One live connection to Redis: requests go out in order, replies come back in order, many callers share it.

redis-py connects (`redis_handover`); from there on commands and replies pass here, through hiredis. redis-py's own
way of a command takes 56 microseconds of CPU alone and 9.4 in a pipeline of 100, its bare connection 41 and 6.7;
a session 16 and 1.1 (`benchmarks/redis_data_path.py`). And it lets concurrent callers share one connection.
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any, Final, cast

import hiredis

from taskq.errors import BrokerFull, ConnectionLost, EncodeError, OperationalError

Reply = Any
Push = Callable[[Sequence[Any]], None]

#: A reply that takes longer means a dead network: the connection is given up. A black hole is found within
#: this time and one tick.
REPLY_TIMEOUT: Final = 8.0
_TICK: Final = 2.0

_ANSWERED_BY_PUSHES: Final = frozenset(("SUBSCRIBE", "UNSUBSCRIBE", "PSUBSCRIBE", "PUNSUBSCRIBE"))
_CONFIRMATIONS: Final = frozenset((b"subscribe", b"unsubscribe", b"psubscribe", b"punsubscribe"))


class PendingReply:
    """One request on its way. A subscription is answered by `pushes` confirmations, one per channel."""

    __slots__ = ("deadline", "future", "pushes")

    def __init__(self, future: asyncio.Future[Reply], deadline: float, command: Sequence[Any]) -> None:
        self.future = future
        self.deadline = deadline
        self.pushes = len(command) - 1 if command[0] in _ANSWERED_BY_PUSHES else 0

    def answer(self, reply: Reply) -> None:
        if not self.future.done():  # else nobody waits any more
            self.future.set_result(reply)


class RedisSession(asyncio.Protocol):
    """Owns the stream of a connection that lives once; `broken` tells why it no longer does.

    Replies that Redis sends unasked (RESP3 pushes) go to `on_push`, in their place among the other replies.
    """

    def __init__(self, stream: asyncio.StreamWriter, shown: str, on_push: Push | None = None) -> None:
        self._shown = shown
        self._on_push = on_push
        self._reader = hiredis.Reader(notEnoughData=...)
        self._waiting: deque[PendingReply] = deque()
        self._loop = asyncio.get_running_loop()
        self._stream = stream  # kept: it closes its transport when it is collected
        self._transport = cast("asyncio.Transport", stream.transport)  # uvloop's are no subclasses
        self._tick: asyncio.TimerHandle | None = None
        self.broken: ConnectionLost | None = None
        #: Whether Redis tells this connection of changes of what was read over it.
        self.tracks = False
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._transport.set_protocol(self)

    def send(self, *commands: Sequence[Any]) -> list[asyncio.Future[Reply]]:
        """Write these commands at once; each future ends in the reply, which may be an exception as a value.

        Raises:
            ConnectionLost: the connection is broken already: nothing was sent.
            EncodeError: a command has a part that cannot be written: nothing was sent.
        """
        if self.broken is not None:
            raise ConnectionLost(str(self.broken))
        # Before anybody waits: who waits for what was never sent would get the replies of others.
        try:
            data = b"".join([hiredis.pack_command(tuple(command)) for command in commands])
        except (TypeError, ValueError) as error:
            raise EncodeError(f"{self._shown}: a command cannot be written: {error}") from error
        deadline = self._loop.time() + REPLY_TIMEOUT
        futures = [self._loop.create_future() for _ in commands]
        self._waiting.extend(map(PendingReply, futures, repeat(deadline), commands))
        self._transport.write(data)
        if self._tick is None:
            self._tick = self._loop.call_later(_TICK, self._check)
        return futures

    async def call(self, *command: Any) -> Reply:
        """Send one command and wait for its reply.

        Raises:
            OperationalError: Redis refused it, or the connection broke (`maybe_accepted`).
        """
        [future] = self.send(command)
        return self.checked(await future)

    async def sign_of_life(self) -> "RedisSession":
        """Itself, once the server has answered: a refusal (MISCONF) is an answer, too. Raises ConnectionLost."""
        try:
            await self.call("PING")
        except ConnectionLost:
            raise
        except OperationalError:
            pass
        return self

    def checked(self, reply: Reply) -> Reply:
        """The reply itself; raises when it is an error."""
        if isinstance(reply, hiredis.ReplyError):
            raise refusal(str(reply), self._shown)
        if isinstance(reply, OperationalError):
            raise reply
        return reply

    def abort(self, why: str) -> None:
        """Give the connection up: everyone who waits is told."""
        if self.broken is not None:
            return
        self.broken = ConnectionLost(f"{self._shown}: {why}")
        if self._tick is not None:
            self._tick.cancel()
        self._transport.abort()
        # As values, not as exceptions: nobody may be left to look at them.
        lost = ConnectionLost(str(self.broken), maybe_accepted=True)
        while self._waiting:
            self._waiting.popleft().answer(lost)
        if not self.closed.done():
            self.closed.set_result(None)

    # -- called by asyncio

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not ...:
                self._dispatch(reply)
        except hiredis.ProtocolError as error:
            self.abort(f"this is no Redis: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.abort(f"the connection broke: {exc or 'closed by the server'}")

    def _dispatch(self, reply: Reply) -> None:
        if isinstance(reply, hiredis.PushNotification):
            self._take_push(reply)
        elif self._waiting:
            self._waiting.popleft().answer(reply)
        else:
            self.abort("an unexpected reply")

    def _take_push(self, push: Sequence[Any]) -> None:
        if push[0] in _CONFIRMATIONS and self._waiting:
            waiting = self._waiting[0]
            waiting.pushes -= 1
            if waiting.pushes == 0:
                self._waiting.popleft().answer(None)
        elif self._on_push is not None:
            self._on_push(push)

    def _check(self) -> None:
        # One timer for all requests: the oldest answers first.
        self._tick = None
        if not self._waiting:
            return
        if self._waiting[0].deadline < self._loop.time():
            self.abort(f"no answer within {REPLY_TIMEOUT:g} s")
            return
        self._tick = self._loop.call_later(_TICK, self._check)


class KeyRefused(OperationalError):
    """A key or channel that cannot be used: this user may not touch it, or it holds something else."""


class NotPermitted(OperationalError):
    """This user may not do that: it is put right by whoever keeps the server, as a wrong password is."""


class KeyDenied(KeyRefused, NotPermitted):
    """A key or channel that this user may not touch."""


class KeyTaken(KeyRefused):
    """A key that holds a value of another type."""


#: What NOPERM says when it is about a name, not about a command: in 6.2 and 7.0, and since 7.2.
_NAME_DENIED: Final = re.compile(r"access (one of the|a) (key|channel)|can't access at least one of the keys")


def refusal(text: str, shown: str) -> OperationalError:
    """What an error reply of Redis means, and what to do about it."""
    if _NAME_DENIED.search(text) is not None:
        return KeyDenied(f"{shown}: this user may not use that key: widen its ACL ({text})")
    for mark, kind, meaning in _REFUSALS:
        # Redis 6.2 wraps the error of a command in a script: the mark is then inside the text.
        if text.startswith(mark) or f"-{mark}" in text:
            return kind(f"{shown}: {meaning} ({text})")
    return OperationalError(f"{shown}: Redis refused: {text}")


_CLUSTER: Final = (
    "this is a Redis Cluster: the queue lists, `unacked` and the leases change in one atomic step, which a cluster "
    "allows only for keys of one slot, and Celery's key names lie in many; use a single Redis or Sentinel"
)
_REFUSALS: Final[Sequence[tuple[str, type[OperationalError], str]]] = (
    ("OOM", BrokerFull, "Redis is full: raise maxmemory or drain the queues"),
    ("MISCONF", BrokerFull, "Redis takes no writes because it cannot save to disk"),
    ("READONLY", ConnectionLost, "this Redis is a read-only replica: use the master's URL, or sentinel://"),
    ("LOADING", ConnectionLost, "Redis is still loading its data"),
    ("MASTERDOWN", ConnectionLost, "this replica has lost its master"),
    ("NOREPLICAS", BrokerFull, "Redis takes no writes without its replicas"),
    ("WRONGPASS", OperationalError, "wrong user or password: check the URL"),
    ("NOAUTH", OperationalError, "Redis wants a password: put it into the URL"),
    ("NOPERM", NotPermitted, "this user may not do that: widen its ACL"),
    (
        "WRONGTYPE",
        KeyTaken,
        "a key of ours holds another type of value: does another program use it?",
    ),
    ("MOVED", OperationalError, _CLUSTER),
    ("CROSSSLOT", OperationalError, _CLUSTER),
)


def refuse_cluster(shown: str) -> OperationalError:
    """The error for a server that runs in cluster mode."""
    return OperationalError(f"{shown}: {_CLUSTER}")
