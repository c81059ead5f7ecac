"""A session that comes back: connects when first needed and again after it broke; scripts are loaded when missing."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from hashlib import sha1
from logging import getLogger
from typing import Any, TypeVar

import hiredis

from taskq.broker_adapters.redis.session import Push, RedisSession, Reply
from taskq.broker_adapters.redis.url import Target
from taskq.errors import ConnectionLost, OperationalError
from taskq.seams.retry import Backoff, Outage

logger = getLogger(__name__)
T = TypeVar("T")


async def wait_at_most(seconds: float, event: asyncio.Event) -> None:
    """Until the event, or until so many seconds are over."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def was_cancelled() -> bool:
    """Whether it is the current task that is to end, not something that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Script:
    """A Lua script, sent by its hash."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()

    def command(self, keys: Sequence[Any], args: Sequence[Any]) -> tuple[Any, ...]:
        """The command that runs it."""
        return ("EVALSHA", self.sha, len(keys), *keys, *args)

    async def run(self, session: RedisSession, keys: Sequence[Any], args: Sequence[Any]) -> Reply:
        """Run it; a server that does not know it (a fresh one, SCRIPT FLUSH) ran nothing, and is told."""
        [reply] = await run_scripts(session, [(self, keys, args)])
        return session.checked(reply)


Call = tuple[Script, Sequence[Any], Sequence[Any]]


async def run_scripts(session: RedisSession, calls: Sequence[Call]) -> list[Reply]:
    """Run these scripts in one round trip; the replies may be errors, as values."""
    futures = session.send(*[script.command(keys, args) for script, keys, args in calls])
    replies = [await future for future in futures]
    for at, (script, keys, args) in enumerate(calls):
        if is_unknown_script(replies[at]):
            [future] = session.send(("EVAL", script.text, len(keys), *keys, *args))
            replies[at] = await future
    return replies


def is_unknown_script(reply: Reply) -> bool:
    """Whether a script did not run because the server does not know it."""
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")


class RedisLink:
    """The way to one Redis, for one event loop.

    `on_connect` runs on each new session before anyone else uses it; `on_push` gets what Redis sends unasked.
    """

    def __init__(
        self,
        target: Target,
        *,
        on_push: Push | None = None,
        on_connect: Callable[[RedisSession], Awaitable[None]] | None = None,
    ) -> None:
        self._target = target
        self._on_push = on_push
        self._on_connect = on_connect
        self._session: RedisSession | None = None
        self._connecting: asyncio.Task[RedisSession] | None = None
        self._closing = asyncio.Event()
        self._outage = Outage()

    @property
    def live(self) -> RedisSession | None:
        """The session if there is a live one now."""
        session = self._session
        return session if session is not None and session.broken is None else None

    async def session(self) -> RedisSession:
        """The live session, after connecting if need be.

        Raises:
            OperationalError: not possible now.
        """
        if (live := self.live) is not None:
            return live
        if self._closing.is_set():
            raise OperationalError(f"{self._target.shown}: closed")
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(
                self._connect(), name="taskq redis connect"
            )
            self._connecting.add_done_callback(self._connected)
        # Shielded: one attempt for all who wait, and whoever gives up does not end it for the others.
        connecting = self._connecting
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            if not connecting.cancelled() or was_cancelled():
                raise
            raise OperationalError(f"{self._target.shown}: closed") from None

    def _connected(self, attempt: asyncio.Task[RedisSession]) -> None:
        self._connecting = None
        if not attempt.cancelled() and attempt.exception() is None:
            self._session = attempt.result()
            if self._closing.is_set():
                self._session.abort("closed")

    async def _connect(self) -> RedisSession:
        session = await self._target.connect(self._on_push)
        if self._on_connect is not None:
            try:
                await self._on_connect(session)
            except BaseException:
                session.abort("setup failed")
                raise
        return session

    async def call(self, *command: Any) -> Reply:
        """One command, tried once."""
        return await self.once(lambda session: session.call(*command))

    async def run(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Reply:
        """One script, tried once."""
        return await self.once(lambda session: script.run(session, keys, args))

    async def once(self, action: Callable[[RedisSession], Awaitable[T]]) -> T:
        """Do this, tried once."""
        session = await self.session()
        try:
            done = await action(session)
        except ConnectionLost as error:
            session.abort(str(error))  # also a living server that is no master: look for the master next time
            raise
        self._outage.over()
        return done

    async def retry_until_done(self, action: Callable[[RedisSession], Awaitable[T]]) -> T:
        """Do this, which may safely be done twice, however often the connection breaks meanwhile.

        Raises:
            OperationalError: a living server refused it, or the link was closed.
        """
        pauses = Backoff()
        while True:
            try:
                session = await self.session()
            except OperationalError as error:
                # Also a refused login: it may be put right while we try.
                if self._closing.is_set():
                    raise
                await self._pause(pauses, error)
                continue
            try:
                done = await action(session)
            except OperationalError as error:
                if isinstance(error, ConnectionLost):
                    session.abort(str(error))
                if session.broken is None:
                    raise
                await self._pause(pauses, error)
            else:
                self._outage.over()
                return done

    async def _pause(self, pauses: Backoff, error: OperationalError) -> None:
        self._outage.failed(logger, error)
        await wait_at_most(pauses.next(), self._closing)

    def close(self) -> None:
        """Drop the connection; there will be no other."""
        self._closing.set()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._session is not None:
            self._session.abort("closed")
