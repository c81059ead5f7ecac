"""A coroutine ended with an exception of our choice, wherever it is."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from taskq.errors import SoftTimeLimitExceeded, TimeLimitExceeded
from taskq.worker.run.drive import CoroutineRun


async def forever() -> None:
    await asyncio.Event().wait()


async def begun(run: CoroutineRun) -> CoroutineRun:
    """Let it come to its first real wait."""
    for _ in range(5):
        await asyncio.sleep(0)
    return run


async def test_its_value_and_its_exception_come_through() -> None:
    async def add() -> int:
        await asyncio.sleep(0)
        return 4

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    assert await CoroutineRun(add(), "add").done == 4
    with pytest.raises(ValueError, match="no"):
        await CoroutineRun(fail(), "fail").done


async def test_an_interrupt_is_raised_at_the_await_and_may_be_caught() -> None:
    async def careful() -> str:
        try:
            await forever()
        except SoftTimeLimitExceeded as error:
            await asyncio.sleep(0)  # it goes on
            return f"caught {type(error).__mro__[1].__name__}"
        return "missed"

    run = await begun(CoroutineRun(careful(), "careful"))
    run.interrupt(SoftTimeLimitExceeded)
    assert await run.done == "caught SoftTimeLimitExceeded"
    run.interrupt(SoftTimeLimitExceeded)  # too late: nothing happens


@pytest.mark.parametrize("limit", [SoftTimeLimitExceeded, TimeLimitExceeded])
async def test_what_is_let_through_comes_out_as_itself(limit: type[BaseException]) -> None:
    run = await begun(CoroutineRun(forever(), "sleeper"))
    run.interrupt(limit)
    with pytest.raises(limit) as caught:
        await run.done
    assert type(caught.value) is limit
    assert not isinstance(caught.value, asyncio.CancelledError)


async def test_except_exception_catches_it_as_in_celery() -> None:
    async def broad() -> str:
        try:
            await forever()
        except Exception as error:  # noqa: BLE001 - as users write it
            return repr(error)
        return ""

    run = await begun(CoroutineRun(broad(), "broad"))
    run.interrupt(SoftTimeLimitExceeded)
    assert "Limit" in await run.done


async def in_task_group(wait: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(wait())  # type: ignore[arg-type]  # a coroutine function


async def in_the_body_of_a_task_group(wait: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(wait())  # type: ignore[arg-type]  # a coroutine function
        await forever()


async def in_wait_for(wait: Callable[[], Awaitable[None]]) -> None:
    await asyncio.wait_for(wait(), 3600)


async def in_gather(wait: Callable[[], Awaitable[None]]) -> None:
    await asyncio.gather(wait(), wait())


async def in_timeout(wait: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(3600):
        await wait()


@pytest.mark.parametrize(
    "construct", [in_task_group, in_the_body_of_a_task_group, in_wait_for, in_gather, in_timeout]
)
async def test_asyncios_own_constructs_clean_up_and_let_it_through(
    construct: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]],
) -> None:
    ended = []

    async def wait() -> None:
        try:
            await forever()
        finally:
            ended.append(True)

    run = await begun(CoroutineRun(construct(wait), "limited"))  # type: ignore[arg-type]  # a coroutine function
    run.interrupt(SoftTimeLimitExceeded)
    with pytest.raises(SoftTimeLimitExceeded):
        await run.done
    assert ended


async def test_timeouts_inside_still_work_after_it() -> None:
    async def goes_on() -> str:
        try:
            await forever()
        except SoftTimeLimitExceeded:
            try:
                async with asyncio.timeout(0.001):
                    await forever()
            except TimeoutError:
                return "cleaned up"
        return ""

    run = await begun(CoroutineRun(goes_on(), "goes on"))
    run.interrupt(SoftTimeLimitExceeded)
    assert await run.done == "cleaned up"


async def test_it_comes_also_when_what_is_awaited_swallows_the_cancellation() -> None:
    async def deaf() -> int:
        try:
            await forever()
        except asyncio.CancelledError:
            return 1
        return 0

    async def waits() -> None:
        await asyncio.create_task(deaf())

    run = await begun(CoroutineRun(waits(), "waits"))
    run.interrupt(SoftTimeLimitExceeded)
    with pytest.raises(SoftTimeLimitExceeded):
        await run.done


async def test_a_cancellation_from_outside_stays_one() -> None:
    run = await begun(CoroutineRun(forever(), "sleeper"))
    run.done.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run.done


async def test_what_will_not_end_is_closed() -> None:
    ends = []

    async def stubborn() -> None:
        for _ in range(3):
            try:
                await forever()
            except BaseException as error:  # noqa: BLE001 - as bad as it gets
                ends.append(type(error).__name__)

    run = await begun(CoroutineRun(stubborn(), "stubborn"))
    run.interrupt(TimeLimitExceeded)
    await begun(run)
    assert not run.done.done()
    run.abandon()
    await asyncio.wait([run.done])
    assert ends == ["_HardLimit", "GeneratorExit"]


async def test_a_limit_among_other_errors_stays_one_of_them() -> None:
    async def mixed() -> None:
        try:
            await forever()
        except SoftTimeLimitExceeded as limit:
            raise BaseExceptionGroup("both", [limit, ValueError("no")]) from None

    run = await begun(CoroutineRun(mixed(), "mixed"))
    run.interrupt(SoftTimeLimitExceeded)
    with pytest.raises(BaseExceptionGroup, match="both"):
        await run.done
