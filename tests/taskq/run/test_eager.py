"""Here and now, without a broker: `apply` and `task_always_eager` come to what a worker would."""

from typing import Any

import pytest

from taskq import (
    AsyncResult,
    GroupResult,
    Ignore,
    MaxRetriesExceededError,
    NotRegistered,
    Reject,
    Task,
    TaskQ,
    chain,
    chord,
    group,
    signals,
)
from taskq.wire.request import Request
from tests.harness import Place

AnyTask = Task[Any, Any, Any]


@pytest.fixture
def add(app: TaskQ) -> AnyTask:
    @app.task(name="proj.add")
    def add(x: int, y: int) -> int:
        return x + y

    return add


@pytest.mark.parametrize("kind", ["coroutine", "plain"])
async def test_apply_gives_a_handle_that_has_ended(app: TaskQ, kind: str) -> None:
    async def coroutine(x: int, y: int = 0) -> int:
        return x + y

    def plain(x: int, y: int = 0) -> int:
        return x + y

    task: AnyTask = app.task(name="t")(coroutine if kind == "coroutine" else plain)
    result = await task.apply((2,), {"y": 2}, task_id="mine")
    assert (result.id, result.state, result.result) == ("mine", "SUCCESS", 4)
    assert await result == 4
    assert await result.ready() is True
    messages: list[dict[str, Any]] = []
    assert await result.get(on_message=messages.append) == 4
    assert [message["status"] for message in messages] == ["SUCCESS"]
    assert await (await task.s(2).apply((), {"y": 3})) == 5


async def test_the_setting_makes_every_call_eager(place: Place) -> None:
    app = place.app(task_always_eager=True)

    @app.task(bind=True)
    async def about(self: AnyTask) -> list[Any]:
        return [self.request.is_eager, self.request.called_directly, self.request.id]

    result = await about.delay()
    assert await result == [True, False, result.id]
    assert await (await app.send_task(about.name))
    assert await (await app.open_broker()).size("celery") == 0


async def test_a_failure_is_in_the_handle_or_raised(place: Place) -> None:
    for propagates in (False, True):
        app = place.app(task_eager_propagates=propagates)

        @app.task(name="fail")
        async def fail() -> None:
            raise ValueError("no")

        if propagates:
            with pytest.raises(ValueError, match="no"):
                await fail.apply()
        else:
            result = await fail.apply()
            assert result.state == "FAILURE"
            assert result.traceback is not None
            assert "in fail" in result.traceback
            with pytest.raises(ValueError, match="no"):
                await result


async def test_retries_run_at_once(app: TaskQ) -> None:
    @app.task(bind=True)
    def flaky(self: AnyTask, x: int) -> int:
        if self.request.retries < 2:
            raise self.retry((x + 1,), countdown=3600)
        return x

    @app.task(bind=True, max_retries=1)
    async def hopeless(self: AnyTask) -> None:
        raise self.retry()

    @app.task(autoretry_for=(ValueError,), max_retries=2, retry_backoff=True)
    async def by_itself() -> None:
        raise ValueError("for good")

    assert await (await flaky.apply((0,))) == 2
    with pytest.raises(MaxRetriesExceededError):
        await (await hopeless.apply())
    with pytest.raises(ValueError, match="for good"):
        await (await by_itself.apply())


@pytest.mark.parametrize(("error", "state"), [(Ignore(), "IGNORED"), (Reject("no"), "REJECTED")])
async def test_ignore_and_reject(app: TaskQ, error: Exception, state: str) -> None:
    @app.task
    async def ending() -> None:
        raise error

    assert (await ending.apply()).state == state


async def test_callbacks_and_errbacks(app: TaskQ, add: AnyTask) -> None:
    heard: list[Any] = []

    @app.task
    async def fail() -> None:
        raise ValueError("no")

    @app.task
    def hear(value: Any) -> None:
        heard.append(value)

    @app.task
    async def new_style(request: Request, exc: Exception, traceback: str, *, extra: int) -> None:
        heard.append((request.task, repr(exc), extra))

    link: AnyTask = hear
    errback: AnyTask = new_style
    await add.apply((2, 2), link=[link.s(), add.s(1)])
    assert heard == [4]
    result = await fail.apply(link_error=[errback.s(extra=7), link.s()])
    assert heard[1:] == [(fail.name, "ValueError('no')", 7), result.id]


async def test_hooks_and_signals(app: TaskQ) -> None:
    heard: list[Any] = []

    class Told(Task[Any, Any, Any]):
        def before_start(self, *_: Any) -> None:
            heard.append("before_start")

        def on_success(self, retval: Any, *_: Any) -> None:
            heard.append(("on_success", retval))

        async def after_return(self, status: str, *_: Any) -> None:
            heard.append(("after_return", status))

    @app.task(base=Told)
    def told() -> int:
        return 1

    def receiver(**_: Any) -> None:
        heard.append("postrun")

    signals.task_postrun.connect(receiver)
    try:
        await told.apply()
    finally:
        signals.task_postrun.disconnect(receiver)
    assert heard == ["before_start", ("on_success", 1), ("after_return", "SUCCESS"), "postrun"]


async def test_canvases(app: TaskQ, add: AnyTask) -> None:
    @app.task
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    body: AnyTask = total
    members = await group(add.s(i, i) for i in range(3)).apply()
    assert isinstance(members, GroupResult)
    assert await members == [0, 2, 4]
    assert await (await chain(add.s(1, 1), add.s(10)).apply()) == 12
    summed = await chord([add.s(i, i) for i in range(3)], body.s()).apply()
    assert await summed == 6
    assert isinstance(summed.parent, GroupResult)


async def test_a_chain_ends_with_its_first_failure(app: TaskQ, add: AnyTask) -> None:
    result = await chain(add.s(1, "x"), add.s(10)).apply()
    assert isinstance(result, AsyncResult)
    with pytest.raises(TypeError):
        await result


async def test_a_replacement_takes_its_place(app: TaskQ, add: AnyTask) -> None:
    @app.task(bind=True)
    async def replaced(self: AnyTask, *, many: bool) -> Any:
        raise self.replace(group(add.s(1, 1), add.s(2, 2)) if many else add.s(1, 1))

    values: list[Any] = [await (await replaced.apply((), {"many": many})).get() for many in (False, True)]
    assert values == [2, [2, 4]]


async def test_what_a_run_sends_is_its_child(place: Place) -> None:
    app = place.app(task_always_eager=True)

    @app.task
    async def child() -> int:
        return 1

    @app.task
    async def parent() -> str:
        return (await child.delay()).id

    result = await parent.delay()
    assert isinstance(await result, str)


async def test_an_unknown_task_cannot_run(app: TaskQ) -> None:
    with pytest.raises(NotRegistered, match=r"proj\.ad"):
        await app.signature("proj.ad").apply()
