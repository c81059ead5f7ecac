"""Revoked ids: a sorted set by the time until which they are remembered, kept here as long as it does not change.

Redis tells the connection that claims of every change of what was read over it (CLIENT TRACKING). A revoked id is in the
set before its message can be claimed, so the news of it come before the answer to that claim: what is remembered here is
true of all that was claimed, and asking costs no round trip.
"""

from collections.abc import Collection, Sequence
from time import time
from typing import Any, Final

from taskq.broker_adapters.redis.layout import Layout
from taskq.broker_adapters.redis.link import RedisLink
from taskq.broker_adapters.redis.session import RedisSession

#: Seconds for which the whole set is kept after the last revoke, at least.
KEEP: Final = 30 * 86400
#: Ids remembered here; of a larger set only those asked for are read, each time.
MOST: Final = 10_000


class RevokedIds:
    """See `taskq.seams.records.Records`."""

    def __init__(self, link: RedisLink, layout: Layout) -> None:
        self._link = link
        self._key = layout.own("revoked")
        self._most = layout.retention.revoked
        self._ends: dict[str, float] = {}
        self._read_over: RedisSession | None = None
        self._changes = 0

    async def add(self, task_ids: Sequence[str], until: float) -> None:
        """Remember these until then."""
        if not task_ids:
            return
        members = [value for task_id in task_ids for value in (f"{until:.6f}", task_id)]
        session = await self._link.session()
        futures = session.send(
            ("ZADD", self._key, "GT", *members),
            ("ZREMRANGEBYSCORE", self._key, "-inf", f"{time():.6f}"),
            ("ZREMRANGEBYRANK", self._key, 0, -1 - self._most),
            ("EXPIRE", self._key, max(KEEP, round(until - time()))),
        )
        try:
            for future in futures:
                session.checked(await future)
        finally:
            self._forget()

    async def among(self, task_ids: Sequence[str]) -> Collection[str]:
        """Those of these that are revoked now."""
        if not task_ids:
            return set()
        session = await self._link.session()
        ends = self._ends if self._read_over is session else await self._read(session, task_ids)
        now = time()
        return {task_id for task_id in task_ids if ends.get(task_id, now) > now}

    async def _read(self, session: RedisSession, task_ids: Sequence[str]) -> dict[str, float]:
        changes = self._changes
        asked, all_of_it = session.send(
            ("ZMSCORE", self._key, *task_ids), ("ZRANGE", self._key, 0, MOST, "WITHSCORES")
        )
        ends = session.checked(await asked)
        known = session.checked(await all_of_it)
        if session.tracks and len(known) <= MOST and changes == self._changes:
            self._ends = {task_id.decode("utf-8", "replace"): end for task_id, end in known}
            self._read_over = session
        return {task_id: end for task_id, end in zip(task_ids, ends, strict=True) if end is not None}

    # -- called by the broker

    def take_push(self, push: Sequence[Any]) -> None:
        """Some keys have changed; None: all may have."""
        if push[0] == b"invalidate" and (push[1] is None or self._key.encode() in push[1]):
            self._forget()

    def _forget(self) -> None:
        self._changes += 1
        self._read_over = None
        self._ends = {}
