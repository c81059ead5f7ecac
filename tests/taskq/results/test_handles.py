"""Handles: what was last seen, looking again, waiting, and giving up."""

import asyncio
from typing import Any

import pytest

from taskq import AsyncResult, GroupResult, ResultTimeout, Task, TaskQ, group
from taskq.results.handles import result_from_tuple
from taskq.seams.store import ResultStore, TaskResult
from taskq.wire.exceptions import encode_exception
from tests.harness import running
from tests.polling import eventually

AnyTask = Task[Any, Any, Any]


@pytest.fixture
async def store(app: TaskQ) -> ResultStore:
    return await app.open_store()


async def save(store: ResultStore, task_id: str, state: str, value: Any = None, **fields: Any) -> None:
    await store.save([TaskResult(task_id, state, value, **fields)])


async def test_properties_show_what_was_last_seen(app: TaskQ, store: ResultStore) -> None:
    result = app.AsyncResult("id-1")
    assert (result.state, result.result, result.traceback, result.children) == ("PENDING", None, None, [])
    assert (result.date_done, result.seen, result.info) == (None, None, None)
    await save(store, "id-1", "PROGRESS", {"done": 1})
    assert result.state == "PENDING"
    assert (await result.refresh()).status == "PROGRESS"
    assert result.info == {"done": 1}
    children = [[["id-2", None], None], [["g", None], [[["id-3", None], None]]]]
    await save(store, "id-1", "SUCCESS", 4, children=children, date_done="2026-11-22T12:00:00+00:00")
    assert await result.ready() is True
    assert (result.result, result.date_done) == (4, "2026-11-22T12:00:00+00:00")
    child, members = result.children
    assert (child.id, members.id) == ("id-2", "g")
    assert [str(result), result.task_id, repr(result)] == ["id-1", "id-1", "<AsyncResult id-1 SUCCESS>"]


async def test_ready_successful_failed(app: TaskQ, store: ResultStore) -> None:
    for task_id, state in (("s", "SUCCESS"), ("f", "FAILURE"), ("r", "REVOKED"), ("p", "PROGRESS")):
        await save(store, task_id, state)
    looks = {
        task_id: [
            await getattr(app.AsyncResult(task_id), verb)() for verb in ("ready", "successful", "failed")
        ]
        for task_id in "sfrpx"
    }
    assert looks == {
        "s": [True, True, False],
        "f": [True, False, True],
        "r": [True, False, False],
        "p": [False, False, False],
        "x": [False, False, False],
    }


async def test_the_failure_is_raised_with_its_traceback_or_returned(app: TaskQ, store: ResultStore) -> None:
    await save(store, "f", "FAILURE", encode_exception(KeyError("k")), traceback="Traceback: there")
    with pytest.raises(KeyError) as caught:
        await app.AsyncResult("f")
    assert caught.value.__notes__ == ["Raised in the worker:\nTraceback: there"]
    returned = await app.AsyncResult("f").get(propagate=False)
    assert repr(returned) == "KeyError('k')"
    await save(store, "n", "FAILURE", None)
    assert await app.AsyncResult("n") is None


async def test_a_timeout_says_how_far_it_was(app: TaskQ, store: ResultStore) -> None:
    await save(store, "p", "PROGRESS", {"done": 1})
    result = app.AsyncResult("p")
    with pytest.raises(ResultTimeout, match=r"task p was PROGRESS after 0\.05 s"):
        await result.get(timeout=0.05)
    with pytest.raises(TimeoutError):
        await result.get(timeout=0.01)


async def test_no_time_to_wait_is_time_to_look_once(app: TaskQ, store: ResultStore) -> None:
    result = app.AsyncResult("t")
    with pytest.raises(ResultTimeout, match="t was PENDING just now"):
        await result.get(timeout=0)
    await save(store, "t", "SUCCESS", 7)
    seen: list[Any] = []
    assert await result.get(timeout=0, on_message=seen.append) == 7
    assert await app.AsyncResult("t").get(timeout=0) == 7
    assert [one["status"] for one in seen] == ["SUCCESS"]


async def test_a_group_is_looked_at_once_too(app: TaskQ, store: ResultStore) -> None:
    await save(store, "a", "SUCCESS", 1)
    both = GroupResult("g", [app.AsyncResult("a"), app.AsyncResult("b")], app)
    with pytest.raises(ResultTimeout):
        await both.get(timeout=0)
    await save(store, "b", "SUCCESS", 2)
    assert await both.get(timeout=0) == [1, 2]
    assert await GroupResult("g", [app.AsyncResult("a"), app.AsyncResult("b")], app).get(timeout=0) == [1, 2]


async def test_a_timeout_of_the_callers_own_code_stays_one(app: TaskQ, store: ResultStore) -> None:
    await save(store, "p", "PROGRESS")

    def impatient(_: Any) -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match=r"^mine$"):
        await app.AsyncResult("p").get(timeout=5, on_message=impatient)


async def test_on_message_may_be_a_coroutine_function(app: TaskQ, store: ResultStore) -> None:
    states: list[str] = []

    async def on_message(body: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        states.append(body["status"])

    await save(store, "s", "STARTED")
    waiting = asyncio.create_task(app.AsyncResult("s").get(on_message=on_message))
    await eventually(lambda: states)
    await save(store, "s", "SUCCESS", 1)
    assert await waiting == 1
    assert states == ["STARTED", "SUCCESS"]


class Deaf:
    """A store that tells nobody of what it is given."""

    def __init__(self, store: ResultStore) -> None:
        self._store = store
        self.load = store.load

    async def watch(self, task_id: str) -> Any:
        await asyncio.Event().wait()
        yield TaskResult(task_id, "NEVER")


class DeafApp:
    def __init__(self, store: ResultStore) -> None:
        self._store = Deaf(store)

    async def open_store(self) -> Any:
        return self._store


async def test_with_an_interval_it_looks_by_itself(store: ResultStore) -> None:
    result: AsyncResult[int] = AsyncResult("s", DeafApp(store))  # type: ignore[arg-type]  # as far as it is used
    waiting = asyncio.create_task(result.get(interval=0.01))
    await asyncio.sleep(0)
    await save(store, "s", "SUCCESS", 4)
    assert await asyncio.wait_for(waiting, 10) == 4


async def test_an_interval_changes_nothing_where_news_come(app: TaskQ, store: ResultStore) -> None:
    await save(store, "s", "STARTED")
    states: list[str] = []
    waiting = asyncio.create_task(
        app.AsyncResult("s").get(interval=60, on_message=lambda body: states.append(body["status"]))
    )
    await eventually(lambda: states)
    await save(store, "s", "SUCCESS", 4)
    assert await asyncio.wait_for(waiting, 10) == 4
    assert states == ["STARTED", "SUCCESS"]


async def test_forgotten_it_is_pending_again(app: TaskQ, store: ResultStore) -> None:
    await save(store, "s", "SUCCESS", 4)
    result = await app.AsyncResult("s").refresh()
    await result.forget()
    assert (result.state, (await result.refresh()).state) == ("PENDING", "PENDING")


async def test_handles_are_equal_by_their_id(app: TaskQ) -> None:
    assert app.AsyncResult("a") == app.AsyncResult("a")
    assert len({app.AsyncResult("a"), app.AsyncResult("a"), app.AsyncResult("b")}) == 2
    assert app.AsyncResult("a") != "a"


async def test_the_wire_form_goes_both_ways(app: TaskQ) -> None:
    parent = AsyncResult[Any]("p", app)
    nested = GroupResult[Any]("inner", [AsyncResult[Any]("b", app)], app)
    whole = GroupResult[Any]("outer", [AsyncResult[Any]("a", app, parent), nested], app, parent)
    data = whole.as_tuple()
    assert data == [
        ["outer", [["p", None], None]],
        [[["a", [["p", None], None]], None], [["inner", None], [[["b", None], None]]]],
    ]
    assert result_from_tuple(data, app).as_tuple() == data


async def test_a_group_as_a_whole(app: TaskQ) -> None:
    @app.task
    async def act(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    async with running(app):
        good = await group(act.s(number) for number in range(3)).apply_async()
        assert await good.join(10) == [0, 1, 2]
        assert (await good.ready(), await good.successful(), await good.failed()) == (True, True, False)
        assert await good.completed_count() == 3
        assert [member.id for member in good] == [leaf.id for leaf in good.leaves()]
        assert (len(good), good[1].id) == (3, good.results[1].id)
        bad = await group(act.s(number) for number in range(2, 5)).apply_async()
        with pytest.raises(ValueError, match="three"):
            await bad
        values = await bad.get(propagate=False)
        assert [repr(value) for value in values] == ["2", "ValueError('three')", "4"]
        assert await bad.failed() is True
        await good.forget()
        assert await good.ready() is False
    assert repr(good) == f"<GroupResult {good.id} of 3>"


async def test_a_group_that_takes_too_long(app: TaskQ) -> None:
    @app.task
    async def never() -> None: ...

    result = await group(never.s(), never.s()).apply_async()
    with pytest.raises(ResultTimeout, match=r"after 0\.05 s"):
        await result.get(timeout=0.05)


async def test_a_revoked_group_does_not_run(app: TaskQ) -> None:
    @app.task
    async def never() -> None: ...

    result = await group(never.s(), never.s()).apply_async()
    await result.revoke()
    async with running(app):
        values = await result.get(timeout=10, propagate=False)
    assert [type(value).__name__ for value in values] == ["TaskRevokedError"] * 2


async def test_a_group_of_ignored_results_has_none(app: TaskQ) -> None:
    @app.task
    async def act() -> int:
        return 1

    result = await group(act.s(), act.s()).apply_async(ignore_result=True)
    assert await result.get(timeout=10) == [None, None]


async def test_a_saved_group_is_found_by_its_id(app: TaskQ) -> None:
    result = await group(app.signature("t"), app.signature("t")).apply_async()
    assert await app.GroupResult(result.id) is None
    await result.save()
    found = await app.GroupResult(result.id)
    assert found is not None
    assert [leaf.id for leaf in found.leaves()] == [leaf.id for leaf in result.leaves()]
    await result.delete()
    assert await app.GroupResult(result.id) is None
