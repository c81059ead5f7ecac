"""Blocking calls: from scripts, threads, plain tasks and forked children; never inside a running loop."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from taskq import Task, TaskQ, chain, group
from taskq.sync import SyncGroupResult, SyncResult, run_sync, worker_loop
from tests.harness import Place, running
from tests.polling import eventually_sync

AnyTask = Task[Any, Any, Any]
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def add(app: TaskQ) -> AnyTask:
    @app.task(name="proj.add")
    async def add(x: int, y: int) -> int:
        return x + y

    return add


async def test_every_verb_from_a_thread(app: TaskQ, add: AnyTask) -> None:
    def script() -> None:
        messages: list[dict[str, Any]] = []
        result = add.sync.delay(2, 2)
        assert isinstance(result, SyncResult)
        assert result.get(timeout=10, on_message=messages.append) == 4
        assert [message["status"] for message in messages] == ["SUCCESS"]
        assert (result.state, result.status, result.result, result.traceback) == (
            "SUCCESS",
            "SUCCESS",
            4,
            None,
        )
        assert (result.ready(), result.successful(), result.failed()) == (True, True, False)
        assert repr(result) == f"<SyncResult {result.id} SUCCESS>"
        result.forget()
        assert result.refresh().handle.state == "PENDING"
        assert add.sync.apply_async((2,), {"y": 3}).get(timeout=10) == 5
        assert add.s(2, 2).sync.delay().get(timeout=10) == 4
        assert add.s(2).sync.apply_async((1,)).get(timeout=10) == 3
        failed = add.sync.delay(1, "x")
        assert isinstance(failed.get(timeout=10, propagate=False), TypeError)
        with pytest.raises(TypeError):
            failed.get(timeout=10)
        later = add.sync.apply_async((1, 1), countdown=60)
        assert later.ready() is False
        later.revoke()

    async with running(app):
        await asyncio.to_thread(script)


async def test_groups_and_chains_from_a_thread(app: TaskQ, add: AnyTask) -> None:
    def script() -> None:
        numbers = group(add.s(i, i) for i in range(3))
        result = numbers.sync.delay()
        assert isinstance(result, SyncGroupResult)
        assert result.get(timeout=10) == [0, 2, 4]
        assert result.ready() is True
        assert [member.get(timeout=10) for member in result] == [0, 2, 4]
        assert (len(result), result.id) == (3, result.handle.id)
        assert numbers.sync.apply_async().get(timeout=10) == [0, 2, 4]
        assert chain(add.s(1, 1), add.s(1)).sync.delay().get(timeout=10) == 3

    async with running(app):
        await asyncio.to_thread(script)


async def test_states_from_a_thread(app: TaskQ) -> None:
    @app.task(bind=True)
    async def steps(self: AnyTask) -> str:
        await self.update_state("PROGRESS", {"done": 1})
        return "all"

    def script() -> None:
        events = [(event.state, event.value) for event in steps.sync.apply_async(countdown=0.3).events()]
        assert events == [("PROGRESS", {"done": 1}), ("SUCCESS", "all")]
        for event in steps.sync.delay().events():  # left before its end
            assert event.state in {"PROGRESS", "SUCCESS"}
            break

    async with running(app):
        await asyncio.to_thread(script)


async def test_inside_a_running_loop_it_says_what_to_await(add: AnyTask) -> None:
    with pytest.raises(RuntimeError, match=r"use `await task\.delay\(\.\.\.\)` here"):
        add.sync.delay(2, 2)
    result = SyncResult(add.AsyncResult("some-id"))
    with pytest.raises(RuntimeError, match=r"use `await result\.get\(\)` here"):
        result.get()


async def test_inside_a_plain_task_the_workers_own_loop_is_used(app: TaskQ, add: AnyTask) -> None:
    here = asyncio.get_running_loop()

    @app.task(bind=True)
    def outer(self: AnyTask) -> list[Any]:
        home = worker_loop.get()
        inner = add.sync.delay(2, 2)
        return [home is not None and home[0] is here, inner.get(timeout=10), inner.id]

    async with running(app):
        result = await outer.delay()
        used, value, inner_id = await result
    assert (used, value) == (True, 4)
    assert [child.id for child in result.children] == [inner_id]


async def test_after_the_workers_loop_has_ended_there_is_another(place: Place) -> None:
    async def four() -> int:
        return 4

    ended = asyncio.new_event_loop()
    ended.close()

    def late() -> int:
        worker_loop.set((ended, os.getpid()))
        return run_sync(four(), "four()")

    assert await asyncio.to_thread(late) == 4


def test_an_interrupted_wait_ends_the_work() -> None:
    ended = threading.Event()
    waiter = threading.main_thread().ident
    assert waiter is not None

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    def place() -> tuple[bool, int]:
        """Whether it waits for a future, and where exactly."""
        frame = sys._current_frames()[waiter]
        return frame.f_back is not None and frame.f_back.f_code is Future.result.__code__, frame.f_lasti

    def interrupt() -> None:
        # A signal just before the wait blocks would be seen only after it: twice at the same place, it blocks.
        places = [place()]

        def blocks() -> bool:
            places.append(place())
            return places[-1] == places[-2] and places[-1][0]

        eventually_sync(blocks, every=0.1)
        signal.pthread_kill(waiter, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run_sync(endless(), "endless()")
    assert ended.wait(10)


SCRIPT = """
import os, sys
from taskq import TaskQ

app = TaskQ("proj", broker="sqlite:///{path}", backend="sqlite:///{path}", task_ignore_result=True)


@app.task
def add(x, y):
    return x + y


print(add.sync.delay(2, 2).get(), flush=True)
child = os.fork()
if child == 0:
    add.sync.delay(2, 2)
    os._exit(0)
_, status = os.waitpid(child, 0)
add.sync.delay(2, 2)
print(os.waitstatus_to_exitcode(status))
"""


def test_a_script_and_its_forked_child(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(path=path)],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (done.stdout, done.returncode) == ("None\n0\n", 0), done.stderr

    async def count() -> int:
        async with TaskQ("proj", broker=f"sqlite:///{path}", backend="disabled://") as app:
            return await (await app.open_broker()).size("celery")

    assert asyncio.run(count()) == 3
