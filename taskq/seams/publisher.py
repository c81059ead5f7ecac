"""Publishing: calls of one loop turn join into one batch, and a failed publish is tried again by policy."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from taskq import signals
from taskq.config.settings import Settings
from taskq.errors import ConnectionLost, EncodeError, OperationalError, PublishErrors, Refused, StoreError
from taskq.options import RetryPolicy
from taskq.seams.broker import Broker
from taskq.seams.urls import mask
from taskq.wire.message import Message
from taskq.wire.signing import sign

#: The most messages given to the broker at once: keeps a huge group from holding the loop for long.
MAX_BATCH = 1000
#: How long a call may take to hand over its messages, all tries and pauses together, in seconds, where the retry
#: policy does not say (`timeout`).
DEADLINE = 5.0


class Publisher:
    """Joins concurrent publishes: while one batch is on its way the next piles up. No timer, no knob.

    Args:
        connect: gives the broker, connected.
        url: the broker's URL, for error messages.
    """

    def __init__(self, connect: Callable[[], Awaitable[Broker]], url: str) -> None:
        self._connect = connect
        self.url = url
        self._waiting: deque[_Submission] = deque()
        self._flusher: asyncio.Task[None] | None = None

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return once the broker is answerable for every message.

        Raises:
            PublishErrors: some were refused, the others are safe (`failures`: index -> error).
            Refused: none is safe, and the first never will be.
            OperationalError: none is known to be safe.
            EncodeError: one of them cannot be written; the others may be safe.
        """
        loop = asyncio.get_running_loop()
        call = _Submission(messages, loop.create_future())
        self._waiting.append(call)
        if self._flusher is None:
            self._flusher = loop.create_task(self._flush())
        if failures := await call.failures:
            _raise(failures, len(messages))

    async def _flush(self) -> None:
        try:
            while self._waiting:
                await self._send(self._batch())
        finally:
            self._flusher = None
            for call in self._waiting:  # only when the loop is being torn down
                call.failures.cancel()

    def _batch(self) -> "list[_Submission]":
        """The next calls to go together: as many as have MAX_BATCH messages, but at least one. Not those given up."""
        calls: list[_Submission] = []
        size = 0
        while self._waiting and (not calls or size + len(self._waiting[0].messages) <= MAX_BATCH):
            call = self._waiting.popleft()
            if not call.failures.done():
                calls.append(call)
                size += len(call.messages)
        return calls

    async def _send(self, calls: "list[_Submission]") -> None:
        messages = [message for call in calls for message in call.messages]
        failures: dict[int, Exception] = {}
        for start in range(0, len(messages), MAX_BATCH):
            batch = messages[start : start + MAX_BATCH]
            try:
                found = await failures_of(await self._connect(), batch)
            except Exception as error:  # noqa: BLE001 - every caller of the batch gets it
                found = dict.fromkeys(range(len(batch)), error)
            failures.update((start + index, error) for index, error in found.items())
        start = 0
        for call in calls:
            end = start + len(call.messages)
            own = {at - start: failures[at] for at in range(start, end) if at in failures} if failures else {}
            if not call.failures.done():  # else the caller was cancelled
                call.failures.set_result(own)
            start = end


class _Submission(NamedTuple):
    """The messages of one call, and what will be known of them: index -> error."""

    messages: Sequence[Message]
    failures: "asyncio.Future[Mapping[int, Exception]]"


async def failures_of(broker: Broker, messages: Sequence[Message]) -> Mapping[int, Exception]:
    """Hand messages to the broker; what went wrong with which (OperationalError, Refused or EncodeError)."""
    try:
        await broker.publish(messages)
    except PublishErrors as errors:
        return errors.failures
    except OperationalError as error:
        return dict.fromkeys(range(len(messages)), error)
    except (EncodeError, Refused) as error:
        if len(messages) == 1:
            return {0: error}
        # Nothing was sent: only the message at fault must suffer for it.
        alone = [await failures_of(broker, [message]) for message in messages]
        return {index: failures[0] for index, failures in enumerate(alone) if failures}
    return {}


def _raise(failures: Mapping[int, Exception], count: int) -> None:
    for error in failures.values():
        if not isinstance(error, OperationalError | Refused):
            raise error
    if len(failures) < count:
        raise PublishErrors(cast("Mapping[int, OperationalError | Refused]", failures))
    raise failures[min(failures)]


async def announce_before(messages: Sequence[Message], secrets: Sequence[str]) -> None:
    """Tell receivers of `before_task_publish`. They may change the headers, so messages are signed anew."""
    if signals.before_task_publish.receivers:
        await signals.announce(signals.before_task_publish, messages)
        sign(messages, secrets)


def retry_policy(options: Mapping[str, Any], conf: Settings) -> Mapping[str, Any] | None:
    """What the options of a call and the settings say about trying again."""
    retry, own = options.get("retry"), options.get("retry_policy")
    policy = {**conf.task_publish_retry_policy, **own} if own else conf.task_publish_retry_policy
    return policy if (conf.task_publish_retry if retry is None else retry) else {**policy, "max_retries": 0}


async def publish_with_retry(
    attempt: Callable[[], Awaitable[None]], *, broker: str, policy: RetryPolicy | None
) -> None:
    """Try until it works or the policy is exhausted (wire-format.md 10.4); `policy` None = one try.

    Its `timeout` (default DEADLINE; None = no limit) is for all tries and pauses together: the last try is cut short.

    Raises:
        OperationalError: names the broker (`broker` is its URL; the password is masked), the tries and the time.
        Refused: the broker will never take it.
    """
    tries = _Tries(broker, {"max_retries": 0} if policy is None else policy)
    limit = asyncio.timeout(tries.timeout)
    try:
        async with limit:
            await tries.run(attempt)
    except TimeoutError:
        if not limit.expired():
            raise
        raise tries.cut_short() from tries.last


class _Tries:
    """The tries of one call."""

    def __init__(self, broker: str, policy: RetryPolicy) -> None:
        self._broker = mask(broker)
        self._policy = policy
        self.timeout = policy.get("timeout", DEADLINE)
        self._clock = asyncio.get_running_loop().time
        self._started = self._clock()
        self._count = 0
        self._maybe_accepted = False
        self.last: Exception | None = None

    async def run(self, attempt: Callable[[], Awaitable[None]]) -> None:
        while True:
            self._count += 1
            try:
                return await attempt()
            except Exception as error:
                self.last = error
                self._maybe_accepted |= getattr(error, "maybe_accepted", False)
                if (pause := self._pause(error)) is None:
                    if not isinstance(error, OperationalError | StoreError):
                        raise
                    raise self._failed(error) from error
            await asyncio.sleep(pause)

    def cut_short(self) -> OperationalError:
        """The time was over while a try was under way: it may still come to something."""
        self._maybe_accepted = True
        return self._failed(self.last or ConnectionLost(f"no answer within {self.timeout:g} s"))

    def _failed(self, error: Exception) -> OperationalError:
        """What the caller is told. A store that must be ready for replies is one with the broker for it."""
        count = "1 try" if self._count == 1 else f"{self._count} tries"
        problem = str(error).removeprefix(f"{self._broker}: ")
        took = self._clock() - self._started
        text = f"could not hand the message to {self._broker}: {problem} ({count} in {took:.1f} s)"
        kind = OperationalError
        if isinstance(error, OperationalError) and not isinstance(error, PublishErrors):
            kind = type(error)
        return kind(text, maybe_accepted=self._maybe_accepted)

    def _pause(self, error: Exception) -> float | None:
        """Seconds to wait before the next try, or None to give up."""
        policy = self._policy
        again = (OperationalError, StoreError, *(policy.get("retry_errors") or ()))
        max_retries = policy.get("max_retries", 3)
        if not isinstance(error, again) or (max_retries is not None and self._count > max_retries):
            return None
        if isinstance(error, PublishErrors) and all(
            isinstance(one, Refused) for one in error.failures.values()
        ):
            return None
        pause: float = min(
            policy.get("interval_start", 0) + (self._count - 1) * policy.get("interval_step", 0.2),
            policy.get("interval_max", 1),
        )
        elapsed = self._clock() - self._started
        return None if self.timeout is not None and elapsed + pause > self.timeout else pause
