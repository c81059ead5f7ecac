"""What any taskq worker does for all of them, on a timer: gives back what dead holders held, moves what is due."""

import asyncio
import json
from collections.abc import Sequence
from logging import getLogger
from typing import Final

from taskq.broker_adapters.redis.claims import Return, give_back, mark, read_claim, set_marks
from taskq.broker_adapters.redis.layout import Layout
from taskq.broker_adapters.redis.link import RedisLink, run_scripts, wait_at_most
from taskq.broker_adapters.redis.scripts import SWEEP
from taskq.broker_adapters.redis.session import RedisSession
from taskq.clock import now
from taskq.errors import OperationalError

logger = getLogger(__name__)

#: Seconds between two sweeps at most; a parked message that is due earlier brings the next one forward.
SWEEP_PAUSE: Final = 1.0
#: Seconds between two looks at the claims of Celery workers (their own default of 10 s, without the factor of ten).
CELERY_PAUSE: Final = 10.0
#: Messages moved by one call: it holds the server for some milliseconds.
BATCH: Final = 500


class Keeper:
    """Sweeps until it is stopped."""

    def __init__(self, link: RedisLink, layout: Layout) -> None:
        self._link = link
        self._layout = layout
        self._next_celery = 0.0
        self._hurry = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="taskq redis keeper")

    def hurry(self, due: float) -> None:
        """A message was parked that may be due before the next sweep."""
        if due - now() < SWEEP_PAUSE:
            self._hurry.set()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            try:
                pause = await self._link.retry_until_done(self._sweep)
                await self._look_at_celery()
            except OperationalError as error:
                logger.error("%s; claims of dead workers and parked messages wait", error)  # noqa: TRY400 - says it all
                pause = CELERY_PAUSE
            except Exception:
                logger.exception("claims of dead workers and parked messages wait")
                pause = CELERY_PAUSE
            await self._rest(pause)

    async def _rest(self, pause: float) -> None:
        await wait_at_most(pause, self._hurry)
        self._hurry.clear()

    async def _sweep(self, session: RedisSession) -> float:
        """Give back and move until nothing is left; returns the seconds until the next look."""
        layout = self._layout
        while True:
            keys = (*layout.custody, layout.own("parked"))
            moved, until_next, tags, claims = await SWEEP.run(
                session, keys, (BATCH, layout.prefix, layout.separator)
            )
            if tags:
                await self._give_back(session, [self._dead(*pair) for pair in zip(tags, claims, strict=True)])
            if moved < BATCH and len(tags) < BATCH:
                return min(SWEEP_PAUSE, max(0.0, float(until_next))) if until_next else SWEEP_PAUSE

    def _dead(self, tag: bytes, claim: bytes) -> Return:
        _, key, entry = read_claim(tag, claim, self._layout)
        entry, task_id = mark(entry)
        return Return(tag, [key], entry, task_id)

    async def _give_back(self, session: RedisSession, returns: Sequence[Return]) -> None:
        # The script looks at each lease again: its holder may have renewed it meanwhile.
        guard = self._layout.custody[2]
        call = give_back(self._layout, returns, guard=guard, age=0, front=True)
        [reply] = await run_scripts(session, [call])
        if back := session.checked(reply):
            logger.warning("gave back %d messages whose worker's lease had run out", back)

    # -- claims of Celery workers: after the visibility timeout, as Celery does (wire-format.md 2.7)

    async def _look_at_celery(self) -> None:
        time = asyncio.get_running_loop().time()
        if time >= self._next_celery:
            self._next_celery = time + min(CELERY_PAUSE, self._layout.visibility_timeout)
            await self._link.retry_until_done(self._restore_celery)

    async def _restore_celery(self, session: RedisSession) -> None:
        # Without Celery's `unacked_mutex`: each give-back is one step that looks at the claim again, and a worker
        # killed while it has the mutex would stop the recovery for everyone for 300 s (seen in a test).
        while await self._restore_some(session) == BATCH:
            pass

    async def _restore_some(self, session: RedisSession) -> int:
        layout = self._layout
        seconds, micros = await session.call("TIME")
        limit = int(seconds) + int(micros) / 1e6 - layout.visibility_timeout
        command = ("ZRANGE", layout.index, f"{limit:.6f}", "-inf", "BYSCORE", "REV", "LIMIT", 0, BATCH)
        tags: list[bytes] = await session.call(*command)
        if not tags:
            return 0
        claims = await session.call("HMGET", layout.unacked, *tags)
        gone = [tag for tag, claim in zip(tags, claims, strict=True) if claim is None]
        if gone:
            await session.call("ZREM", layout.index, *gone)
        returns = [
            late
            for tag, claim in zip(tags, claims, strict=True)
            if claim is not None and (late := await self._late(session, tag, claim)) is not None
        ]
        call = give_back(layout, returns, guard=layout.index, age=layout.visibility_timeout, front=True)
        [reply] = await run_scripts(session, [call])
        # Without progress (claims that cannot be read stay where they are) there is no second round.
        return len(tags) if session.checked(reply) or gone else 0

    async def _late(self, session: RedisSession, tag: bytes, claim: bytes) -> Return | None:
        """A claim of any kind, as Celery would restore it; None if it cannot be read."""
        try:
            envelope, exchange, routing_key = json.loads(claim)
            set_marks(envelope)
            priority = int(envelope["properties"].get("priority") or 0)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            logger.error("unreadable claim %r: %s", tag, error)  # noqa: TRY400 - the claim, not our trace
            return None
        queues = await self._bound(session, exchange, routing_key)
        lists = [self._layout.key(queue, self._layout.step(priority)) for queue in queues]
        return Return(tag, lists, json.dumps(envelope).encode())

    async def _bound(self, session: RedisSession, exchange: str, routing_key: str) -> list[str]:
        if not exchange:
            return [routing_key]
        members = await session.call("SMEMBERS", self._layout.bindings(exchange)[0])
        # Celery drops a message whose bindings are gone; the queue of that name may still be read.
        return self._layout.matches(members, routing_key) or [routing_key]
