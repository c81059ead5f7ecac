"""For tests, yours as well as ours: a worker inside the test, and an event loop that does not wait.

`start_worker` runs a worker in the test's own loop:

    async with start_worker(app):
        assert await (await add.delay(2, 2)) == 4

`AutojumpLoop` skips the time in which nothing happens: `asyncio.sleep(3600)`, a countdown of an hour, a timeout of a
day are over at once, in the right order, and `loop.time()` says that the hour has passed. `taskq.clock.now` tells the
same time while the loop runs, so that eta, expires and leases follow. Computing takes no time at all on this clock.

With pytest-asyncio (1.4 or later), for the tests marked `autojump`, in conftest.py:

    def pytest_asyncio_loop_factories(config, item):
        marked = item.get_closest_marker("autojump") is not None
        return {"autojump": AutojumpLoop} if marked else {"asyncio": asyncio.new_event_loop}

Anywhere else: `with asyncio.Runner(loop_factory=AutojumpLoop) as runner: runner.run(main())`.

**When it does not jump.** The world outside the loop keeps its own pace, so while the loop may be waiting for it,
time passes as it really does. That is as long as

- work of `run_in_executor` or `asyncio.to_thread` is under way,
- a socket or pipe is open (a connection to Redis or RabbitMQ, a subprocess's output), or
- somebody is inside `with loop.hold():`. Threads of your own that answer by `call_soon_threadsafe` cannot be seen
  from the loop: hold it while you wait for one (plain functions as tasks and `sqlite://` use such threads).

With nothing scheduled at all it waits for such an answer, however long it takes, like any loop.
"""

import asyncio
import selectors
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar, TypeVarTuple

from taskq import clock
from taskq.app import TaskQ
from taskq.worker.worker import Stop, Worker

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


@asynccontextmanager
async def start_worker(app: TaskQ, **options: Any) -> AsyncIterator[Worker]:
    """A worker in the running loop, ready; it finishes what it runs at the end, or stops at once if the body fails.

    Args:
        app: whose tasks it runs. With `broker="memory://name"` nothing but this process is needed.
        options: as `taskq.worker.Worker` takes them: `queues`, `concurrency`, ...
    """
    ready = asyncio.Event()
    worker = Worker(app, on_ready=ready.set, **options)
    run = asyncio.create_task(worker.run())
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([run, waiting], return_when=asyncio.FIRST_COMPLETED)
    try:
        if not run.done():
            yield worker
    except BaseException:
        worker.stop(Stop.COLD)
        raise
    finally:
        waiting.cancel()
        worker.stop()
        await run


class AutojumpLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next deadline when there is nothing else to do.

    Its time starts at 0 and is exact: after `sleep(3600)` it is 3600.
    """

    def __init__(self) -> None:
        self._started = time.time()
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        # asyncio runs what is due before `time() + resolution`. A nanosecond is lost in the digits of a time after 97
        # days, and then nothing would ever be due.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """Seconds since the loop was made, skipped ones included."""
        return self._jumping.now

    def now(self) -> float:
        """The same as wall clock, in Unix seconds: what `taskq.clock.now` tells while the loop runs."""
        return self._started + self._jumping.now

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Let time pass as it really does, while something outside the loop is awaited."""
        self._jumping.outside += 1
        try:
            yield
        finally:
            self._jumping.outside -= 1

    def run_forever(self) -> None:
        """As any loop's; it also sets `taskq.clock`."""
        before = clock.set_source(self.now)
        try:
            super().run_forever()
        finally:
            clock.set_source(before)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*_Ts], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        """As any loop's; time does not jump before it is done."""
        future = super().run_in_executor(executor, func, *args)
        self._jumping.outside += 1
        future.add_done_callback(self._came_back)
        return future

    def _came_back(self, _: object) -> None:
        self._jumping.outside -= 1

    async def shutdown_default_executor(self, *args: Any) -> None:
        """As any loop's; its timeout (Python 3.12) is a real one."""
        with self.hold():
            await super().shutdown_default_executor(*args)


class _JumpingSelector(selectors.DefaultSelector):
    """Passes the time that the loop wants to wait: by a jump, or really while `outside` work may end it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.outside = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        # One file descriptor is the loop's own, for wake-ups from threads.
        if timeout is not None and not self.outside and len(self.get_map()) == 1:
            self.now += timeout
            return ready
        started = time.monotonic()
        ready = super().select(timeout)
        self.now += time.monotonic() - started
        return ready
