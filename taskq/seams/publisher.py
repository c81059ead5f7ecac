"""Publishing: calls of one loop turn join into one batch, and a failed publish is tried again by policy."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from taskq import signals
from taskq.config.settings import Settings
from taskq.errors import EncodeError, OperationalError, PublishErrors, Refused
from taskq.options import RetryPolicy
from taskq.seams.broker import Broker
from taskq.seams.urls import mask
from taskq.wire.message import Message
from taskq.wire.signing import sign

#: The most messages given to the broker at once: keeps a huge group from holding the loop for long.
MAX_BATCH = 1000


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
        """The next calls to go together: as many as have MAX_BATCH messages, but at least one."""
        calls: list[_Submission] = []
        size = 0
        while self._waiting and (not calls or size + len(self._waiting[0].messages) <= MAX_BATCH):
            calls.append(self._waiting.popleft())
            size += len(calls[-1].messages)
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
    """What the options of a call and the settings say about trying again; None: one try."""
    retry, own = options.get("retry"), options.get("retry_policy")
    if not (conf.task_publish_retry if retry is None else retry):
        return None
    return {**conf.task_publish_retry_policy, **own} if own else conf.task_publish_retry_policy


async def publish_with_retry(
    attempt: Callable[[], Awaitable[None]], *, broker: str, policy: RetryPolicy | None
) -> None:
    """Try until it works or the policy is exhausted (wire-format.md 10.4); `policy` None = one try.

    Raises:
        OperationalError: names the broker (`broker` is its URL; the password is masked), the tries and the time.
    """
    started = time.monotonic()
    tries = 0
    maybe_accepted = False
    while True:
        tries += 1
        try:
            return await attempt()
        except Exception as error:
            maybe_accepted |= getattr(error, "maybe_accepted", False)
            elapsed = time.monotonic() - started
            pause = _pause(policy, tries, elapsed, error)
            if pause is None:
                if not isinstance(error, OperationalError):
                    raise
                shown = "1 try" if tries == 1 else f"{tries} tries"
                problem = str(error).removeprefix(f"{mask(broker)}: ")
                text = f"could not hand the message to {mask(broker)}: {problem} ({shown} in {elapsed:.1f} s)"
                kind = OperationalError if isinstance(error, PublishErrors) else type(error)
                raise kind(text, maybe_accepted=maybe_accepted) from error
        await asyncio.sleep(pause)


def _pause(policy: RetryPolicy | None, tries: int, elapsed: float, error: Exception) -> float | None:
    """Seconds to wait before the next try, or None to give up."""
    if policy is None:
        return None
    if not isinstance(error, (OperationalError, *(policy.get("retry_errors") or ()))):
        return None
    max_retries = policy.get("max_retries", 3)
    if max_retries is not None and tries > max_retries:
        return None
    pause: float = min(
        policy.get("interval_start", 0) + (tries - 1) * policy.get("interval_step", 0.2),
        policy.get("interval_max", 1),
    )
    timeout = policy.get("timeout")
    if timeout is not None and elapsed + pause > timeout:
        return None
    return pause
