"""Receiving from Redis: claims in one script, leases, waiting without popping."""

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from logging import getLogger
from typing import Any, Final

from taskq.broker_adapters.redis.claims import (
    Claim,
    Return,
    ahead,
    give_back,
    mark,
    read_claim,
    renew,
)
from taskq.broker_adapters.redis.dead import bury_claims
from taskq.broker_adapters.redis.fanout import Fanout
from taskq.broker_adapters.redis.hearing import Hearing
from taskq.broker_adapters.redis.keeper import Keeper
from taskq.broker_adapters.redis.layout import Layout
from taskq.broker_adapters.redis.link import (
    Call,
    RedisLink,
    is_unknown_script,
    run_scripts,
    wait_at_most,
)
from taskq.broker_adapters.redis.scripts import ACK, CLAIM, FORGET_SOON, PARK
from taskq.broker_adapters.redis.session import NotPermitted, RedisSession, Reply
from taskq.broker_adapters.redis.sources import Asked, Sources
from taskq.errors import BrokerFull, ConnectionLost, DecodeError, OperationalError
from taskq.seams.broker import ANY_SIZE, ONCE_SETTLED, Consumer, Queue, hand_out
from taskq.seams.retry import Backoff
from taskq.wire.envelope import loads_tagged
from taskq.wire.message import Delivery, id_of

logger = getLogger(__name__)

#: The most taken by one claim: the script holds the server for some milliseconds.
MOST: Final = 1000
#: The most bytes taken by one claim, but for a single message that has more: its answer is one text of this size.
MOST_BYTES: Final = 4 << 20
#: Seconds between two claims on idle queues that no news came from; a server that sends no news is asked more often.
POLL: Final = 1.0
POLL_WITHOUT_NEWS: Final = 0.05
#: A requeue gives back whatever its lease says: any age will do.
_ANY_AGE: Final = -1e12


class RedisConsumer(Consumer):
    """Receives from some queues; see `taskq.seams.broker.Consumer`.

    Idle waiting: Redis tells this connection when one of the lists changes (CLIENT TRACKING). One connection
    waits for any number of lists, all equally fast, and nothing is written. BLMOVE would wait for one list per
    connection, and each wake-up would go into the append-only file and to the replicas.
    """

    def __init__(
        self,
        link: RedisLink,
        hearing: Hearing,
        layout: Layout,
        declare: Callable[[Sequence[str]], Awaitable[Sequence[Queue]]],
        *,
        prefetch: int,
        lease: float,
    ) -> None:
        self._link, self._hearing, self._layout = link, hearing, layout
        self._declare = declare
        self._prefetch = prefetch
        self._name = os.urandom(8).hex()
        self._fanout = Fanout(layout, (), self._add)
        self._sources = Sources(layout, (), self._name)
        self._lease = lease
        # Celery gives a claim back when its index score is visibility_timeout old: never before our lease ends.
        self._ahead = ahead(lease, layout)
        self._number = 0
        self._expiries: list[tuple[str, str, int]] = []
        self._asked: Asked | None = None
        self._unsure: Asked | None = None
        self._held: dict[str, Claim] = {}
        self._suspects: list[Delivery] = []
        self._unreadable: list[tuple[Claim, str, str]] = []
        self._ready: deque[Delivery] = deque()
        self._news = asyncio.Event()
        self._poll = POLL
        self._drained = True
        self._keys: set[bytes] = set()
        # The lists are empty, and Redis will tell of their next change; and somebody waits for room.
        self._exhausted = False
        self._cramped = False
        self._refused = False
        self._pauses = Backoff()
        self._closed = False
        self._keeper = Keeper(link, layout)

    async def resize(self, prefetch: int) -> None:
        self._prefetch = prefetch
        self._news.set()

    async def subscribe(self, queues: Sequence[str]) -> None:
        declared = await self._declare(queues)
        fanouts = [queue for queue in declared if queue.exchange_type == "fanout"]
        self._fanout = Fanout(self._layout, fanouts, self._add)
        plain = [queue.name for queue in declared if queue not in fanouts]
        self._sources = Sources(self._layout, plain, self._name)
        self._keys = {key.encode() for key, _, _ in self._layout.lists(plain)}
        self._exhausted = False
        self._expiries = self._layout.expiries(declared)
        if fanouts:
            await self._fanout.subscribe(await self._hearing.session())
        self._news.set()

    # -- called by the broker

    async def on_connect(self, session: RedisSession) -> None:
        self._exhausted = False
        try:
            await session.call("CLIENT", "TRACKING", "ON")
            session.tracks = True
            self._poll = POLL
        except OperationalError as error:
            if session.broken is not None:
                raise
            logger.info("%s; idle queues are asked every %g s", error, POLL_WITHOUT_NEWS)
            self._poll = POLL_WITHOUT_NEWS
        self._news.set()

    async def on_hearing_connect(self, session: RedisSession) -> None:
        await self._fanout.subscribe(session)

    def take_push(self, push: Sequence[Any]) -> None:
        """Something changed in a list we looked at, or a message came by fanout."""
        if push[0] == b"invalidate":  # also of what scripts read beside the lists
            if push[1] is None or not self._keys.isdisjoint(push[1]):
                self._news.set()
        else:
            self._fanout.take(push)

    def _add(self, delivery: Delivery) -> None:
        """A delivery without custody."""
        self._ready.append(delivery)
        self._news.set()

    # -- receive

    async def receive(self, limit: int, max_bytes: int = ANY_SIZE) -> Sequence[Delivery]:
        while not self._closed:
            if self._ready:
                return hand_out(self._ready, limit, max_bytes)
            room = min(limit, MOST, self._prefetch - len(self._held))
            if self._asked is None and (room <= 0 or not self._sources.queues):
                self._cramped = True
                self._news.clear()
                await self._news.wait()
            elif self._exhausted and self._asked is None and not self._news.is_set():
                await wait_at_most(self._poll, self._news)
                self._exhausted = False
            elif not await self._try_to_claim(room, max_bytes) and not self._ready:
                await wait_at_most(self._poll, self._news)
        return []

    async def _try_to_claim(self, room: int, max_bytes: int) -> bool:
        """As `_claim`. A Redis that takes no writes at present, or not from this user, is asked again, ever less often."""
        try:
            more = await self._link.retry_until_done(partial(self._claim, room=room, max_bytes=max_bytes))
        except (BrokerFull, NotPermitted) as error:
            if not self._refused:
                logger.error("%s; nothing is received until that is put right", error)  # noqa: TRY400 - says it all
            self._refused = True
            self._news.clear()
            await wait_at_most(self._pauses.next(), self._news)
            return True
        if self._refused:
            logger.warning("this worker receives again")
            self._refused = False
            self._pauses.reset()
        return more

    async def _claim(self, session: RedisSession, *, room: int, max_bytes: int) -> bool:
        """Put what can be claimed into `_ready`. False: the lists are empty, and their news will come."""
        if self._unsure is not None:
            await self._find(session, self._unsure)
        if self._suspects or self._unreadable:
            await self._clear_up(session)
        if self._ready:
            return True
        if self._asked is None:
            self._asked = self._ask(session, room, max_bytes)
        asked = self._asked
        # Shielded: a receive that is cancelled leaves the answer to the next one.
        replies = [await asyncio.shield(future) for future in asked.replies]
        if self._closed:
            return True  # close takes the answer
        self._asked = None
        await self._take_reply(session, asked, replies[0])
        looked = len(replies) > 1
        more = not looked or replies[1] != 0
        self._exhausted = self._drained and not more
        return more

    def _ask(self, session: RedisSession, room: int, max_bytes: int) -> Asked:
        sources = self._sources.next()
        keys = [source.key for source in sources]
        size = min(max_bytes, MOST_BYTES)
        args: list[Any] = [room, size, self._lease, self._ahead, self._number, len(self._sources.queues)]
        for source in sources:
            args += (source.tag_prefix, source.suffix)
        commands: list[Sequence[Any]] = [CLAIM.command((*self._layout.custody, *keys), args)]
        if self._drained:
            # Looking at the lists is what makes Redis tell of their next change.
            commands.append(("EXISTS", *keys))
        self._news.clear()
        self._cramped = False
        asked = Asked(sources, self._number, room, tuple(session.send(*commands)))
        if self._expiries:
            session.send(*self._expiries)
        self._number += room
        return asked

    async def _take_reply(self, session: RedisSession, asked: Asked, reply: Reply) -> None:
        if isinstance(reply, ConnectionLost):
            self._unsure = asked
        if is_unknown_script(reply):
            await session.call("SCRIPT", "LOAD", CLAIM.text)
            self._drained = False  # ask again at once
            return
        runs, entries = session.checked(reply)
        self._drained = len(entries) < asked.room
        if runs:
            self._sources.served(asked.sources[runs[0] - 1].queue)
            self._open_all(asked, runs, entries)
            if self._suspects or self._unreadable:
                await self._clear_up(session)

    def _open_all(self, asked: Asked, runs: Sequence[int], entries: Sequence[bytes]) -> None:
        taken: list[Delivery] = []
        number, at = asked.first, 0
        for place, count in zip(runs[::2], runs[1::2], strict=True):
            source = asked.sources[place - 1]
            for entry in entries[at : at + count]:
                self._open(Claim(f"{source.tag_prefix}{number:012d}", source.key, entry), source.queue, taken)
                number += 1
            at += count
        self._hand_on(taken)

    def _open(self, claim: Claim, queue: str, into: list[Delivery]) -> None:
        self._held[claim.tag] = claim
        try:
            message, serial = loads_tagged(claim.entry)
        except DecodeError as error:
            logger.error("a message of queue %s goes to the dead letters: %s", queue, error)  # noqa: TRY400 - no trace of ours
            self._unreadable.append((claim, queue, str(error)))
            return
        redelivered = message.headers.pop("redelivered", None) is True
        into.append(Delivery(message, queue, claim, redelivered, serial=serial))

    def _hand_on(self, taken: list[Delivery]) -> None:
        # Only what was delivered before can have killed a holder: that is asked before it is handed out.
        if self._suspects or any(delivery.redelivered for delivery in taken):
            self._suspects += taken
        else:
            self._ready.extend(taken)

    async def _clear_up(self, session: RedisSession) -> None:
        """Bury what cannot be read; tell deliveries how often their holders died."""
        if self._unreadable:
            letters = [(claim.tag, queue, reason) for claim, queue, reason in self._unreadable]
            [reply] = await run_scripts(session, [bury_claims(self._layout, letters)])
            session.checked(reply)
            for tag, _, _ in letters:
                self._held.pop(tag, None)
            self._unreadable.clear()
            self._drained = False  # there is room again
        if self._suspects:
            ids = [id_of(delivery.message) for delivery in self._suspects]
            counts = await session.call("HMGET", self._layout.own("deaths"), *ids)
            for delivery, count in zip(self._suspects, counts, strict=True):
                delivery.deaths = int(count) if delivery.redelivered and count else 0
            self._ready.extend(self._suspects)
            self._suspects.clear()

    async def _find(self, session: RedisSession, lost: Asked) -> None:
        """Take over what a claim took whose answer was lost with the connection."""
        tags = lost.tags()
        claims = await session.call("HMGET", self._layout.unacked, *tags)
        self._unsure = None
        taken: list[Delivery] = []
        for tag, value in zip(tags, claims, strict=True):
            if value is not None:
                queue, key, entry = read_claim(tag.encode(), value, self._layout)
                self._open(Claim(tag, key, entry), queue, taken)
        self._hand_on(taken)

    # -- settle

    async def settle(
        self,
        *,
        ack: Sequence[Delivery] = (),
        requeue: Sequence[Delivery] = (),
        reject: Sequence[tuple[Delivery, str]] = (),
    ) -> None:
        calls: list[Call] = []
        custody = self._layout.custody
        if tags := [delivery.tag.tag for delivery in ack if delivery.tag is not None]:
            calls.append((ACK, custody, tags))
        if names := [self._layout.own(f"once:{name}") for delivery in ack for name in delivery.once]:
            calls.append((FORGET_SOON, names, [ONCE_SETTLED]))
        if back := [delivery.tag for delivery in requeue if delivery.tag is not None]:
            calls.append(self._returning(back, front=False))
        letters = [(d.tag.tag, d.queue, reason) for d, reason in reject if d.tag is not None]
        if letters:
            calls.append(bury_claims(self._layout, letters))
        self._fanout.deliver_later([(delivery, 0.0) for delivery in requeue if delivery.tag is None])
        if rejected := [(delivery, reason) for delivery, reason in reject if delivery.tag is None]:
            await self._link.retry_until_done(partial(self._fanout.bury, rejected=rejected))
        if calls:
            over = [d for d in (*ack, *(d for d, _ in reject)) if d.deaths]
            await self._link.retry_until_done(
                partial(self._run, calls=calls, forget=[id_of(d.message) for d in over])
            )
            self._release([*tags, *(claim.tag for claim in back), *(tag for tag, _, _ in letters)])

    async def _run(self, session: RedisSession, *, calls: Sequence[Call], forget: Sequence[str]) -> None:
        for reply in await run_scripts(session, calls):
            session.checked(reply)
        if forget:
            await session.call("HDEL", self._layout.own("deaths"), *forget)

    def _release(self, tags: Sequence[str]) -> None:
        for tag in tags:
            self._held.pop(tag, None)
        if self._cramped or not self._drained:
            self._news.set()

    def _returning(self, claims: Sequence[Claim], *, front: bool) -> Call:
        returns = [Return(claim.tag, [claim.list], mark(claim.entry)[0]) for claim in claims]
        return give_back(self._layout, returns, guard=self._layout.custody[2], age=_ANY_AGE, front=front)

    async def strike(self, delivery: Delivery, count: int = 1) -> None:
        deaths, task_id = self._layout.own("deaths"), id_of(delivery.message)
        await self._link.retry_until_done(lambda session: session.call("HINCRBY", deaths, task_id, count))

    async def park(self, deliveries: Sequence[tuple[Delivery, float]]) -> None:
        args: list[Any] = []
        for delivery, due in deliveries:
            if delivery.tag is not None:
                args += (delivery.tag.tag, delivery.queue, f"{due:.6f}", id_of(delivery.message))
        self._fanout.deliver_later([(delivery, due) for delivery, due in deliveries if delivery.tag is None])
        if args:
            call = (PARK, (*self._layout.custody, self._layout.own("parked")), args)
            await self._link.retry_until_done(partial(self._run, calls=[call], forget=()))
            self._release(args[::4])
            self._keeper.hurry(min(due for _, due in deliveries))

    async def renew(self, held: Sequence[Delivery]) -> Sequence[Delivery]:
        return await renew(self._link, self._layout, self._lease, held)

    # -- close

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._news.set()
        await self._keeper.stop()
        try:
            await self._give_all_back()
        except OperationalError as error:
            logger.warning("%s; what was held comes back when its lease ends", error)

    async def _give_all_back(self) -> None:
        if self._asked is not None:
            replies = await asyncio.gather(*self._asked.replies)
            if isinstance(replies[0], list):
                self._open_all(self._asked, *replies[0])
        if self._held:
            # From the last to the first: the oldest ends at the head.
            call = self._returning(list(self._held.values())[::-1], front=True)
            await self._link.once(partial(self._run, calls=[call], forget=()))
            self._held.clear()
