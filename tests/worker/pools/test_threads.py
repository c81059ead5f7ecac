"""Plain functions in threads: their ends, their interrupts, and threads that do not come back."""

import asyncio
import contextvars
import functools
import threading
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from taskq.errors import SoftTimeLimitExceeded
from taskq.worker.pools.carried import Carried
from taskq.worker.pools.threads import ThreadPool
from tests.polling import eventually

COLOUR = contextvars.ContextVar("colour", default="none")


@pytest.fixture
async def pool() -> AsyncIterator[ThreadPool]:
    pool = ThreadPool(2, asyncio.get_running_loop())
    yield pool
    pool.close()


def raising(error: BaseException) -> None:
    raise error


async def test_values_and_exceptions_come_back(pool: ThreadPool) -> None:
    assert await pool.submit(lambda: 4).done == 4
    with pytest.raises(ValueError, match="no"):
        await pool.submit(lambda: raising(ValueError("no"))).done


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), StopIteration(), GeneratorExit()])
async def test_what_a_future_cannot_take_is_carried_and_the_thread_lives_on(
    pool: ThreadPool, error: BaseException
) -> None:
    with pytest.raises(Carried) as caught:
        await pool.submit(lambda: raising(error)).done
    assert caught.value.error is error
    assert await pool.submit(lambda: "fine").done == "fine"


async def test_each_run_has_the_context_of_its_submission_and_keeps_what_it_sets_to_itself(
    pool: ThreadPool,
) -> None:
    def paint() -> str:
        before = COLOUR.get()
        COLOUR.set("red")
        return before

    COLOUR.set("blue")
    assert await pool.submit(paint).done == "blue"
    assert await pool.submit(COLOUR.get).done == "blue"
    assert COLOUR.get() == "blue"


async def test_no_more_threads_than_its_size(pool: ThreadPool) -> None:
    def name() -> str:
        threading.Event().wait(0.01)
        return threading.current_thread().name

    names = await asyncio.gather(*(pool.submit(name).done for _ in range(10)))
    assert set(names) == {"taskq-1", "taskq-2"}


async def test_threads_that_could_not_be_started_are_not_counted(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", refuse)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="can't start"):
                pool.submit(lambda: 1)
    barrier = threading.Barrier(2)
    both = [pool.submit(lambda: barrier.wait(10)) for _ in range(2)]
    assert {await asyncio.wait_for(run.done, 10) for run in both} == {0, 1}


async def test_without_a_further_thread_a_run_waits_for_one_there_is(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    release = threading.Event()
    first = pool.submit(lambda: release.wait(10))
    with monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", refuse)
        second = pool.submit(lambda: "second")
    assert "1 threads of 2: can't start new thread" in caplog.text
    release.set()
    assert await asyncio.wait_for(first.done, 10) is True
    assert await asyncio.wait_for(second.done, 10) == "second"


async def test_none_of_many_runs_is_forgotten(pool: ThreadPool) -> None:
    for _ in range(20):
        runs = [pool.submit(functools.partial(int, i)) for i in range(100)]
        assert await asyncio.wait_for(asyncio.gather(*(run.done for run in runs)), 10) == list(range(100))


async def test_an_interrupt_is_raised_inside_and_may_be_caught(pool: ThreadPool) -> None:
    begun = threading.Event()

    def careful() -> str:
        try:
            begun.set()
            while True:
                threading.Event().wait(0.001)
        except SoftTimeLimitExceeded:
            return "cleaned up"

    run = pool.submit(careful)
    await eventually(begun.is_set)
    run.interrupt(SoftTimeLimitExceeded)
    assert await run.done == "cleaned up"
    run.interrupt(SoftTimeLimitExceeded)  # too late: nothing happens
    assert await pool.submit(lambda: "fine").done == "fine"


async def test_interrupts_that_race_with_the_end_never_hit_the_pool(pool: ThreadPool) -> None:
    for turn in range(300):
        run = pool.submit(lambda: sum(range(50)))
        if turn % 3:
            await asyncio.sleep(0)
        run.interrupt(SoftTimeLimitExceeded)
        with suppress(SoftTimeLimitExceeded):
            assert await asyncio.wait_for(run.done, 10) == 1225
    names = {await pool.submit(lambda: threading.current_thread().name).done for _ in range(20)}
    assert names <= {"taskq-1", "taskq-2"}  # neither has died


async def test_an_abandoned_thread_is_replaced_and_ends_with_its_run(pool: ThreadPool) -> None:
    release = threading.Event()
    threads: list[threading.Thread] = []

    def hang() -> None:
        threads.append(threading.current_thread())
        release.wait()

    stuck = [pool.submit(hang) for _ in range(2)]
    await eventually(lambda: len(threads) == 2)
    for run in stuck:
        run.abandon()
        assert run.done.cancelled()
    assert await asyncio.wait_for(pool.submit(lambda: "fine").done, 10) == "fine"
    release.set()
    await eventually(lambda: not any(thread.is_alive() for thread in threads))


async def test_a_run_abandoned_before_it_began_is_never_called(pool: ThreadPool) -> None:
    release = threading.Event()
    busy = [pool.submit(release.wait) for _ in range(2)]
    called: list[bool] = []
    late = pool.submit(lambda: called.append(True))
    late.abandon()
    release.set()
    await asyncio.gather(*(run.done for run in busy))
    assert await pool.submit(lambda: "fine").done == "fine"
    assert not called


async def test_a_thread_that_ends_after_the_loop_is_closed_disturbs_nobody() -> None:
    release = threading.Event()
    loop = asyncio.new_event_loop()

    async def leave_one_behind() -> ThreadPool:
        pool = ThreadPool(1, asyncio.get_running_loop())
        pool.submit(release.wait)
        return pool

    await asyncio.to_thread(lambda: loop.run_until_complete(leave_one_behind()).close())
    loop.close()
    [thread] = [thread for thread in threading.enumerate() if thread.name == "taskq-1"][-1:]
    release.set()
    await eventually(lambda: not thread.is_alive())
