"""Answers on their way to their callers, each of whom may be gone, frozen or just connecting again.

Whoever sends waits a moment for the broker's confirms, and for no caller any longer: an answer that is not taken is tried
again beside the rest, a few times, then dropped. What is tried again are ends of tasks alone: states on the way are only
worth something in time.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from taskq.errors import OperationalError, Refused, Unroutable
from taskq.wire.message import Message

log = logging.getLogger("taskq.stores")

#: Seconds to wait for confirms; and while an answer is known to be stuck.
_PATIENCE, _LITTLE_PATIENCE = 1.0, 0.1
#: Seconds between tries, the first and the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0
#: Seconds for which a caller may have no queue (it may be connecting again), and for which a queue may refuse.
_GONE_AFTER, _REFUSED_FOR = 15.0, 60.0
#: Bytes of answers that wait; the oldest make room.
_MOST_BYTES: Final = 16_000_000
#: Callers remembered to be gone.
_REMEMBERED: Final = 10_000

Outcome = Mapping[int, Exception]


@dataclass(slots=True)
class _Caller:
    """Answers that wait for one caller; `since` is when the first of them was not taken."""

    since: float
    answers: deque[Message] = field(default_factory=deque)


class Replies:
    """Sends answers by `send`, which tells what went wrong with which."""

    def __init__(self, send: Callable[[Sequence[Message]], Awaitable[Outcome]]) -> None:
        self._send = send
        self._callers: dict[str, _Caller] = {}
        self._bytes = 0
        self._gone: dict[str, None] = {}
        self._beside: set[asyncio.Task[Outcome]] = set()
        self._retrying: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many answers wait for another try."""
        return sum(len(caller.answers) for caller in self._callers.values())

    async def send(self, answers: Sequence[Message], ends: Sequence[bool]) -> dict[int, Refused]:
        """Send these; `ends` tells which are final. Returns those the broker refuses for good, as far as that is known.

        Raises:
            OperationalError: there is no connection.
        """
        sending = asyncio.create_task(self._attempt(answers, ends))
        stuck = self._callers or self._beside
        await asyncio.wait({sending}, timeout=_LITTLE_PATIENCE if stuck else _PATIENCE)
        if sending.done():
            failures = sending.result()
            return {index: error for index, error in failures.items() if isinstance(error, Refused)}
        self._beside.add(sending)
        sending.add_done_callback(lambda sent: self._ended(sent, answers, ends))
        return {}

    async def close(self) -> None:
        """Try what waits once more, and drop what is left."""
        if self._retrying is not None:
            self._retrying.cancel()
            await asyncio.wait({self._retrying})
        if self._beside:
            await asyncio.wait(self._beside, timeout=_PATIENCE)
        for name in list(self._callers):
            await self._try_again(name)
        if left := self.waiting:
            log.warning("%d answers are dropped: their callers do not take them", left)

    async def _attempt(self, answers: Sequence[Message], ends: Sequence[bool]) -> Outcome:
        failures = await self._send(answers)
        for index, answer in enumerate(answers):
            error = failures.get(index)
            if error is None:
                self._gone.pop(answer.routing_key, None)
            elif ends[index] and isinstance(error, OperationalError):
                self._keep(answer, error)
        return failures

    def _ended(self, sent: "asyncio.Task[Outcome]", answers: Sequence[Message], ends: Sequence[bool]) -> None:
        """What was sent beside has come to something."""
        self._beside.discard(sent)
        if sent.cancelled():
            return
        error = sent.exception()
        if isinstance(error, OperationalError):
            for answer, is_end in zip(answers, ends, strict=True):
                if is_end:
                    self._keep(answer, error)
        for problem in [error] if error is not None else sent.result().values():
            if not isinstance(problem, Unroutable):
                log.warning("an answer is not taken: %s", problem)

    # -- again

    def _keep(self, answer: Message, error: OperationalError) -> None:
        name = answer.routing_key
        if isinstance(error, Unroutable) and name in self._gone:
            return
        now = asyncio.get_running_loop().time()
        self._callers.setdefault(name, _Caller(now)).answers.append(answer)
        self._bytes += len(answer.body)
        while self._bytes > _MOST_BYTES:
            self._drop(next(iter(self._callers)))
        if self._retrying is None:
            self._retrying = asyncio.create_task(self._retry(), name="taskq-amqp-replies")

    def _drop(self, name: str) -> None:
        caller = self._callers.pop(name)
        self._bytes -= sum(len(answer.body) for answer in caller.answers)
        log.info("%d answers to %s are dropped: nobody takes them", len(caller.answers), name)

    async def _retry(self) -> None:
        pause = _FIRST_PAUSE
        while self._callers:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            await asyncio.gather(*(self._try_again(name) for name in list(self._callers)))
        self._retrying = None

    async def _try_again(self, name: str) -> None:
        """Send the first answer that waits for a caller; the others follow once it is taken."""
        caller = self._callers.get(name)
        while caller is not None and caller.answers:
            batch = list(caller.answers)[:1] if caller.since else list(caller.answers)
            try:
                failures = await self._send(batch)
            except OperationalError:
                return  # no connection: that is not the caller's fault, and costs none of its time
            if self._callers.get(name) is not caller:
                return
            error = next(
                (failure for failure in failures.values() if isinstance(failure, OperationalError)), None
            )
            if error is not None:
                self._judge(name, caller, error)
                return
            caller.since = 0.0  # it is there: the rest goes at once
            for _ in batch:
                self._bytes -= len(caller.answers.popleft().body)
        self._callers.pop(name, None)
        self._gone.pop(name, None)

    def _judge(self, name: str, caller: _Caller, error: OperationalError) -> None:
        now = asyncio.get_running_loop().time()
        caller.since = caller.since or now
        unroutable = isinstance(error, Unroutable)
        if now - caller.since < (_GONE_AFTER if unroutable else _REFUSED_FOR):
            return
        self._drop(name)
        if unroutable:
            self._gone[name] = None
            if len(self._gone) > _REMEMBERED:
                del self._gone[next(iter(self._gone))]
