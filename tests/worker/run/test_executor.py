"""Runs as tasks see them: their request, their context, when they are acknowledged, how they may be ended."""

import asyncio
import contextvars
from typing import Any

import pytest

from taskq import Task, TaskQ, TaskRevokedError
from taskq.worker.worker import Stop
from tests.harness import Place, running
from tests.polling import eventually

COLOUR = contextvars.ContextVar("colour", default="none")


async def test_the_request_tells_all_about_the_run(app: TaskQ) -> None:
    @app.task(bind=True)
    async def about(self: Task[Any, Any, Any], /, *args: int, **kwargs: int) -> dict[str, Any]:
        request = self.request
        names = ("id", "task", "args", "kwargs", "root_id", "parent_id", "retries", "timelimit", "hostname")
        return {name: getattr(request, name) for name in names} | {"shown": request.name}

    async with running(app, hostname="celery@here"):
        result = await about.apply_async((1,), {"x": 2}, time_limit=9, soft_time_limit=8, shadow="Nice name")
        seen = await result
    assert seen == {
        "id": result.id,
        "task": about.name,
        "args": [1],
        "kwargs": {"x": 2},
        "root_id": result.id,
        "parent_id": None,
        "retries": 0,
        "timelimit": [9, 8],
        "hostname": "celery@here",
        "shown": "Nice name",
    }


async def test_what_a_task_sends_is_its_child(app: TaskQ) -> None:
    @app.task(bind=True)
    async def family(self: Task[Any, Any, Any]) -> tuple[str, str | None, str | None]:
        return self.request.id, self.request.parent_id, self.request.root_id

    @app.task
    async def parent() -> list[Any]:
        return list(await (await family.delay()))

    async with running(app):
        result = await parent.delay()
        child_id, parent_id, root_id = await result
    assert (parent_id, root_id) == (result.id, result.id)
    assert [child.id for child in result.children] == [child_id]


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_context_variables_do_not_leak_from_run_to_run(app: TaskQ, concurrency: int) -> None:
    def paint() -> str:
        before = COLOUR.get()
        COLOUR.set("red")
        return before

    async def paint_async() -> str:
        await asyncio.sleep(0)
        return paint()

    tasks: list[Task[Any, Any, Any]] = [app.task(name="plain")(paint), app.task(name="async")(paint_async)]
    async with running(app, concurrency=concurrency, threads=1):
        results = [await tasks[i % 2].delay() for i in range(12)]
        assert {await result for result in results} == {"none"}
    assert COLOUR.get() == "none"


async def test_started_is_stored_where_it_is_tracked(app: TaskQ) -> None:
    @app.task(track_started=True)
    async def tracked() -> int:
        return 1

    events: list[Any] = []
    result = await tracked.apply_async(countdown=0.1)
    async with running(app, hostname="celery@here"):
        events += [(event.state, event.value) async for event in result.events()]
    [(started, meta), ended] = events
    assert started == "STARTED"
    assert meta["hostname"] == "celery@here"
    assert ended == ("SUCCESS", 1)


async def test_states_come_in_order_from_a_coroutine_a_thread_and_a_thread_of_its_own(app: TaskQ) -> None:
    @app.task(bind=True)
    async def mixed(self: Task[Any, Any, Any]) -> str:
        self.update_state("A")
        await self.update_state("B", {"n": 2})
        await asyncio.to_thread(self.progress, 1, 4, "a quarter")
        return "done"

    @app.task(bind=True)
    def plain(self: Task[Any, Any, Any]) -> str:
        for state in "ABC":
            self.update_state(state)
        return "done"

    async with running(app):
        for task, expected in (
            (mixed, ["A", "B", "PROGRESS", "SUCCESS"]),
            (plain, ["A", "B", "C", "SUCCESS"]),
        ):
            result = await task.apply_async(countdown=0.1)
            events = [event async for event in result.events()]
            assert [event.state for event in events] == expected


async def test_progress_tells_how_far_it_is(app: TaskQ) -> None:
    @app.task(bind=True)
    async def counting(self: Task[Any, Any, Any]) -> None:
        self.progress(1, 4, "a quarter")
        self.progress(0, 0)

    result = await counting.apply_async(countdown=0.1)
    async with running(app):
        events = [event.value async for event in result.events()]
    assert events[0] == {"current": 1, "total": 4, "percent": 25.0, "description": "a quarter"}
    assert events[1]["percent"] == 100.0


async def test_what_goes_on_in_the_background_has_no_say_after_the_end(app: TaskQ) -> None:
    go_on = asyncio.Event()
    background: list[asyncio.Task[None]] = []

    @app.task(bind=True)
    async def leaves_one_behind(self: Task[Any, Any, Any]) -> str:
        async def late() -> None:
            await go_on.wait()
            await self.update_state("LATE")

        background.append(asyncio.create_task(late()))
        raise ValueError("ended")

    async with running(app):
        result = await leaves_one_behind.delay()
        assert isinstance(await result.get(propagate=False), ValueError)
        go_on.set()
        await background[0]
        assert (await result.refresh()).state == "FAILURE"


async def test_by_default_a_task_that_is_cut_off_is_not_lost(app: TaskQ) -> None:
    assert await waiting_after_a_cut(app, acks_late=None) == 1


async def test_acknowledged_early_it_is_lost(app: TaskQ) -> None:
    assert await waiting_after_a_cut(app, acks_late=False) == 0


async def test_the_setting_decides_where_the_task_does_not(place: Place) -> None:
    assert await waiting_after_a_cut(place.app(task_acks_late=False), acks_late=None) == 0
    assert await waiting_after_a_cut(place.app(task_acks_late=False), acks_late=True) == 1


async def waiting_after_a_cut(app: TaskQ, *, acks_late: bool | None) -> int:
    """How many messages wait after a worker was stopped in the middle of one."""
    begun = asyncio.Event()

    @app.task(name=f"endless-{acks_late}", acks_late=acks_late)
    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with running(app) as worker:
        await endless.delay()
        await begun.wait()
        worker.stop(Stop.COLD)
    broker = await app.open_broker()
    return await broker.size("celery")


async def test_a_run_that_somebody_ends_is_revoked(app: TaskQ) -> None:
    @app.task
    async def endless() -> None:
        await asyncio.Event().wait()

    async with running(app) as worker:
        result = await endless.delay()
        await eventually(lambda: worker.running)
        [job] = worker.running
        assert job.runner is not None
        await eventually(lambda: job.request.hostname)
        job.runner.cancel()
        with pytest.raises(TaskRevokedError, match="terminated"):
            await result


@pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("limit", [None, 30])
@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_whatever_a_task_raises_is_its_failure_alone(
    app: TaskQ, error: type[BaseException], limit: float | None, kind: str
) -> None:
    async def coroutine() -> None:
        raise error("enough")

    def thread() -> None:
        raise error("enough")

    extreme = app.task(name="extreme")(coroutine if kind == "coroutine" else thread)

    @app.task
    async def other() -> str:
        return "fine"

    async with running(app):
        result = await extreme.apply_async(time_limit=limit)
        failure = await result.get(propagate=False)
        assert error.__name__ in repr(failure)
        assert isinstance(failure, Exception)
        assert await (await other.delay()) == "fine"


async def test_arguments_that_do_not_fit_are_the_tasks_failure(place: Place) -> None:
    app = place.app()

    @app.task(typing=False)
    async def one(x: int) -> int:
        return x

    async with running(app):
        with pytest.raises(TypeError, match="positional argument"):
            await (await one.apply_async((1, 2, 3)))


async def test_a_task_revoked_while_it_is_ready_does_not_run(
    app: TaskQ,
) -> None:
    release = asyncio.Event()

    @app.task
    async def first() -> None:
        await release.wait()

    @app.task
    async def second() -> None:
        raise AssertionError("it ran")

    async with running(app, concurrency=1) as worker:
        await first.delay()
        result = await second.delay()
        await eventually(lambda: len(worker._parts.custody) == 2 if worker._parts else False)
        await result.revoke()
        await eventually(lambda: len(worker._parts.custody) == 1 if worker._parts else False)
        release.set()
        with pytest.raises(TaskRevokedError, match="revoked"):
            await result


async def test_the_function_may_be_called_directly_inside_a_run(app: TaskQ) -> None:
    @app.task(bind=True)
    async def inner(self: Task[Any, Any, Any]) -> bool:
        await self.update_state("INNER")  # of no run: nothing is stored
        return self.request.called_directly

    @app.task(bind=True)
    async def outer(self: Task[Any, Any, Any]) -> list[bool]:
        return [await inner(), self.request.called_directly]

    async with running(app):
        result = await outer.apply_async(countdown=0.1)
        events = [(event.state, event.value) async for event in result.events()]
    assert events == [("SUCCESS", [True, False])]
