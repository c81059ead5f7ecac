import asyncio
import threading
import time
import uuid

import pytest

from taskq import TaskQ, clock
from taskq.testing import AutojumpLoop, start_worker

pytestmark = pytest.mark.autojump


def this_loop() -> AutojumpLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, AutojumpLoop)
    return loop


async def test_long_sleeps_take_no_time_and_the_clock_is_exact() -> None:
    started = time.monotonic()
    for seconds in (0.1, 3600, 7 * 86400):
        await asyncio.sleep(seconds)
    assert this_loop().time() == 0.1 + 3600 + 7 * 86400
    assert time.monotonic() - started < 3600


async def test_time_goes_on_after_a_hundred_days() -> None:
    for _ in range(400):
        await asyncio.sleep(86400.1)
    assert this_loop().time() == pytest.approx(400 * 86400.1)


async def test_sleepers_wake_in_order() -> None:
    woken: list[int] = []

    async def sleep(seconds: int) -> None:
        await asyncio.sleep(seconds)
        woken.append(seconds)

    await asyncio.gather(*(sleep(seconds) for seconds in (30, 10, 3600, 20)))
    assert woken == [10, 20, 30, 3600]


async def test_a_timeout_of_a_day_is_over_at_once() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(86400):
            await asyncio.Event().wait()
    assert this_loop().time() == 86400


async def test_work_that_is_ready_comes_before_any_jump() -> None:
    async with asyncio.timeout(0.001):
        for _ in range(1000):
            await asyncio.sleep(0)
    assert this_loop().time() == 0


async def test_the_wall_clock_jumps_along() -> None:
    before = clock.now()
    await asyncio.sleep(3600)
    assert clock.now() == before + 3600 == this_loop().now()


def test_the_wall_clock_is_the_real_one_outside() -> None:
    with asyncio.Runner(loop_factory=AutojumpLoop) as runner:
        runner.run(asyncio.sleep(3600))
    assert abs(clock.now() - time.time()) < 3600


async def test_time_stands_by_while_a_thread_of_the_executor_works() -> None:
    release = threading.Event()
    work = asyncio.get_running_loop().run_in_executor(None, release.wait)
    await asyncio.sleep(0.02)
    assert 0.02 <= this_loop().time() < 3600
    release.set()
    async with asyncio.timeout(3600):
        assert await work is True
    before = this_loop().time()
    await asyncio.sleep(3600)
    assert this_loop().time() == before + 3600


async def test_to_thread_is_not_cut_by_a_long_timeout() -> None:
    async with asyncio.timeout(60):
        assert await asyncio.to_thread(lambda: "done") == "done"


async def test_an_open_socket_holds_the_time() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        async with asyncio.timeout(60):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
            writer.close()
            await writer.wait_closed()
    assert this_loop().time() < 60


async def test_hold_waits_for_a_thread_of_ones_own() -> None:
    loop = this_loop()
    answer: asyncio.Future[str] = loop.create_future()
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(answer.set_result, "done"))
    with loop.hold():
        thread.start()
        assert await asyncio.wait_for(answer, 3600) == "done"
    thread.join()
    assert loop.time() < 3600


async def test_with_nothing_scheduled_it_waits_for_an_answer_from_outside() -> None:
    loop = this_loop()
    answer: asyncio.Future[str] = loop.create_future()
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(answer.set_result, "done"))
    thread.start()
    assert await answer == "done"
    thread.join()


async def test_shutting_down_the_executor_takes_its_real_time() -> None:
    assert await asyncio.to_thread(threading.get_ident) != threading.get_ident()
    await asyncio.get_running_loop().shutdown_default_executor()
    assert this_loop().time() < 60


def test_a_worker_in_a_test_and_an_hour_that_passes_at_once() -> None:
    async def main() -> float:
        app = TaskQ("proj", broker=f"memory://{uuid.uuid4().hex}")

        @app.task
        async def remind(name: str) -> str:
            return name

        async with start_worker(app):
            reminder = await remind.apply_async(("ann",), countdown=3600)
            assert await reminder == "ann"
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=AutojumpLoop) as runner:
        assert 3599.9 <= runner.run(main()) < 3660


async def test_a_worker_in_a_test_that_fails_stops_at_once() -> None:
    app = TaskQ("proj", broker=f"memory://{uuid.uuid4().hex}")
    begun = asyncio.Event()

    @app.task
    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def body() -> None:
        async with start_worker(app):
            await endless.delay()
            await begun.wait()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await body()
