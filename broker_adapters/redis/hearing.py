"""The connection that subscribes, apart from all others.

Redis counts every reply of a connection with subscriptions against its limit for pub/sub (`client-output-buffer-limit
pubsub`, 32 MB by default) and closes it above that: one that claims as well would never get past large messages.
"""

import asyncio
from logging import getLogger
from typing import Final

from taskq.broker_adapters.redis.link import RedisLink
from taskq.broker_adapters.redis.session import RedisSession
from taskq.errors import OperationalError
from taskq.seams.retry import Backoff

logger = getLogger(__name__)

#: Seconds between two signs of life asked for: who only listens does not notice a silent death.
HEARTBEAT: Final = 5.0


class Hearing:
    """Connected from the first subscription on, and again whenever it broke."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._keeper: asyncio.Task[None] | None = None

    @property
    def live(self) -> RedisSession | None:
        """The session if there is a live one now."""
        return self._link.live

    async def session(self) -> RedisSession:
        """The live session, after connecting if need be; from now on it is kept. Raises OperationalError."""
        session = await self._link.session()
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="taskq-redis-hearing")
        return session

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        self._link.close()

    async def _keep(self) -> None:
        pauses = Backoff()
        while True:
            try:
                session = await self._link.retry_until_done(RedisSession.sign_of_life)
                pauses.reset()
                await asyncio.wait([session.closed], timeout=HEARTBEAT)
            except OperationalError:
                return  # closed
            except Exception:
                logger.exception("could not connect for those who listen")
                await asyncio.sleep(pauses.next())
