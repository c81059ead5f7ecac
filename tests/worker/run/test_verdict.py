"""What becomes of a run: retries, refusals, failures, and what follows each."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskq import (
    AsyncResult,
    Ignore,
    MaxRetriesExceededError,
    Reject,
    Retry,
    Task,
    TaskQ,
    TaskRevokedError,
)
from taskq.canvas.signature import Signature
from taskq.errors import EncodeError
from taskq.wire.request import Request
from tests.harness import Place, running
from tests.polling import eventually

AnyTask = Task[Any, Any, Any]


async def states_of(result: AsyncResult[Any]) -> list[tuple[str, Any]]:
    """Every state from now on, with its value; exceptions by their class."""
    states = []
    async for event in result.events():
        value = event.value
        states.append((event.state, value.get("exc_type", value) if isinstance(value, dict) else value))
    return states


# == retry


async def test_a_retry_is_the_same_task_again_until_it_works(app: TaskQ) -> None:
    seen: list[Request] = []

    @app.task(bind=True)
    async def flaky(self: AnyTask, x: int) -> int:
        seen.append(self.request)
        if self.request.retries < 2:
            raise self.retry(exc=ValueError("not yet"), countdown=0)
        return x

    async with running(app):
        result = await flaky.apply_async((7,), countdown=0.1, headers={"tenant": "acme"}, priority=3)
        assert await states_of(result) == [("RETRY", "ValueError"), ("RETRY", "ValueError"), ("SUCCESS", 7)]
    assert [request.retries for request in seen] == [0, 1, 2]
    assert {request.id for request in seen} == {result.id}
    assert {request.root_id for request in seen} == {result.id}
    assert {request.headers["tenant"] for request in seen} == {"acme"}
    assert [request.parent_id for request in seen] == [None, result.id, result.id]


async def test_a_retry_may_change_the_call(app: TaskQ) -> None:
    @app.task(bind=True)
    async def growing(self: AnyTask, x: int, y: int = 0) -> list[Any]:
        if self.request.retries == 0:
            raise self.retry(args=(x + 1,), kwargs={"y": 5}, countdown=0, queue="other", priority=9)
        return [x, y, self.request.delivery_info["routing_key"], self.request.delivery_info["priority"]]

    async with running(app, queues=["celery", "other"]):
        assert await (await growing.delay(1)) == [2, 5, "other", 9]


async def test_retries_run_out(app: TaskQ) -> None:
    @app.task(bind=True, max_retries=1, default_retry_delay=0)
    async def with_reason(self: AnyTask) -> None:
        raise self.retry(exc=ValueError("for good"))

    @app.task(bind=True, default_retry_delay=0)
    async def without(self: AnyTask) -> None:
        raise self.retry(max_retries=0)

    async with running(app):
        with pytest.raises(ValueError, match="for good"):
            await (await with_reason.delay())
        with pytest.raises(MaxRetriesExceededError, match="Can't retry"):
            await (await without.delay())


async def test_a_retry_from_a_thread_and_by_eta(app: TaskQ) -> None:
    @app.task(bind=True)
    def flaky(self: AnyTask) -> int:
        if self.request.retries == 0:
            raise self.retry(eta=datetime.now(UTC) + timedelta(seconds=0.05))
        return self.request.retries

    async with running(app):
        assert await (await flaky.delay()) == 1


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"args": (1, 2)}, "wrong arguments"),
        ({"serializer": "nope"}, "nope"),
        ({"args": (object(),)}, "object"),
    ],
    ids=["arguments", "options", "serializer"],
)
async def test_a_retry_that_makes_no_call_is_a_failure(
    app: TaskQ, change: dict[str, Any], error: str
) -> None:
    @app.task(bind=True)
    async def wrong(self: AnyTask, x: int = 0) -> None:
        raise self.retry(countdown=0, **change)

    async with running(app):
        with pytest.raises(Exception, match=error):
            await (await wrong.delay())


async def test_a_retry_that_no_broker_can_be_given_is_a_failure(app: TaskQ) -> None:
    @app.task(bind=True)
    async def wrong(self: AnyTask) -> None:
        raise self.retry(countdown=0, headers={"x": object()})

    @app.task
    async def other() -> str:
        return "fine"

    async with running(app):
        result = await wrong.delay()
        good = await other.delay()
        with pytest.raises(EncodeError):
            await result
        assert await good == "fine"


async def test_exceptions_are_retried_by_themselves(app: TaskQ) -> None:
    runs: list[str] = []

    @app.task(
        autoretry_for=(OSError,),
        dont_autoretry_for=(FileNotFoundError,),
        retry_kwargs={"max_retries": 2, "countdown": 0},
    )
    async def flaky(error: str) -> None:
        runs.append(error)
        raise {"os": OSError, "file": FileNotFoundError, "value": ValueError}[error](error)

    async with running(app):
        for error, cls in (("os", OSError), ("file", FileNotFoundError), ("value", ValueError)):
            with pytest.raises(cls):
                await (await flaky.delay(error))
    assert runs == ["os", "os", "os", "file", "value"]


@pytest.mark.autojump
async def test_backoff_waits_longer_each_time(place: Place) -> None:
    app = place.app()
    times: list[float] = []

    @app.task(
        autoretry_for=(ValueError,), retry_backoff=2, retry_backoff_max=5, retry_jitter=False, max_retries=3
    )
    async def flaky() -> None:
        times.append(asyncio.get_running_loop().time())
        raise ValueError

    async with running(app):
        with pytest.raises(ValueError):
            await (await flaky.delay())
    waits = [round(after - before) for before, after in itertools.pairwise(times)]
    assert waits == [2, 4, 5]


# == ignore, reject


async def test_ignore_stores_nothing(app: TaskQ) -> None:
    @app.task
    async def ignoring() -> None:
        raise Ignore

    async with running(app):
        result = await ignoring.delay()
    assert (await result.refresh()).state == "PENDING"
    assert await waiting(app) == 0


async def waiting(app: TaskQ) -> int:
    return await (await app.open_broker()).size("celery")


async def test_reject_goes_to_the_dead_letters(app: TaskQ) -> None:
    @app.task
    async def rejecting() -> None:
        raise Reject("not for us")

    async with running(app):
        result = await rejecting.delay()
        with pytest.raises(Reject):
            await result
    [letter] = await (await app.open_broker()).dead()
    assert letter.reason == "rejected by the task: not for us"
    assert letter.message is not None
    assert letter.message.headers["id"] == result.id


async def test_reject_with_requeue_runs_it_again(app: TaskQ) -> None:
    runs: list[bool] = []

    @app.task
    async def rejecting() -> str:
        runs.append(True)
        if len(runs) < 3:
            raise Reject("later", requeue=True)
        return "done"

    async with running(app):
        assert await (await rejecting.delay()) == "done"
    assert len(runs) == 3


@pytest.mark.parametrize("error", [Reject("no"), Reject("later", requeue=True), Ignore(), ValueError("no")])
async def test_what_was_acknowledged_early_ends_there(app: TaskQ, error: Exception) -> None:
    @app.task(acks_late=False)
    async def ending() -> None:
        raise error

    async with running(app):
        await ending.delay()
    assert await waiting(app) == 0
    assert list(await (await app.open_broker()).dead()) == []


# == results


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_a_failure_has_its_traceback_from_the_tasks_code_on(app: TaskQ, kind: str) -> None:
    def explode() -> None:
        raise ValueError("boom")

    async def coroutine() -> None:
        explode()

    def thread() -> None:
        explode()

    task = app.task(name="exploding")(coroutine if kind == "coroutine" else thread)
    async with running(app):
        result = await task.delay()
        with pytest.raises(ValueError, match="boom") as caught:
            await result
    assert result.traceback is not None
    assert "taskq/worker/executor" not in result.traceback
    assert "in explode" in result.traceback
    assert any("Raised in the worker" in note for note in caught.value.__notes__)


async def test_a_result_that_cannot_be_written_is_that_tasks_failure_alone(
    app: TaskQ, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task
    async def strange(odd: object) -> Any:
        return object() if odd else "fine"

    async with running(app):
        results = [await strange.delay(index == 2) for index in range(5)]
        with pytest.raises(EncodeError):
            await results[2]
        assert [await result for result in results if result is not results[2]] == ["fine"] * 4
    assert "cannot be stored" in caplog.text


async def test_progress_that_cannot_be_written_is_dropped_and_the_task_goes_on(app: TaskQ) -> None:
    @app.task(bind=True)
    async def strange(self: AnyTask) -> str:
        await self.update_state("ODD", object())
        await self.update_state("EVEN", 2)
        return "fine"

    result = await strange.apply_async(countdown=0.1)
    async with running(app):
        assert await states_of(result) == [("EVEN", 2), ("SUCCESS", "fine")]


@pytest.mark.parametrize(
    ("task_options", "settings", "call", "stored"),
    [
        ({"ignore_result": True}, {}, {}, False),
        ({}, {"task_ignore_result": True}, {}, False),
        ({"ignore_result": True}, {}, {"ignore_result": False}, True),
        ({"ignore_result": True, "store_errors_even_if_ignored": True}, {}, {}, True),
        ({}, {"task_ignore_result": True, "task_store_errors_even_if_ignored": True}, {}, True),
    ],
)
async def test_whether_a_failure_is_stored(
    place: Place, task_options: Any, settings: dict[str, Any], call: Any, *, stored: bool
) -> None:
    app = place.app(**settings)

    async def fail() -> None:
        raise ValueError("no")

    failing: AnyTask = app.task(**task_options)(fail)
    async with running(app):
        result = await failing.apply_async(**call)
    assert ((await result.refresh()).state == "FAILURE") is stored


async def test_a_task_may_say_that_it_was_revoked(app: TaskQ) -> None:
    @app.task
    async def gone() -> None:
        raise TaskRevokedError("gone")

    async with running(app):
        with pytest.raises(TaskRevokedError, match="gone"):
            await (await gone.delay())


async def test_an_expected_exception_is_logged_without_its_traceback(
    app: TaskQ, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(throws=(KeyError,))
    async def expected() -> None:
        raise KeyError("k")

    caplog.set_level("INFO", "taskq.worker")
    async with running(app):
        result = await expected.delay()
        await result.get(propagate=False)
    [record] = [record for record in caplog.records if "failed" in record.getMessage()]
    assert (record.levelname, record.exc_info) == ("INFO", None)


# == what follows


async def test_callbacks_and_the_next_step_of_a_chain_get_the_value(app: TaskQ) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    last = Signature[int](add.name, (1000,), options={"task_id": "last"})
    steps = [last.to_dict(), add.signature((100,)).to_dict()]
    async with running(app):
        result = await add.apply_async((2, 2), link=add.signature((10,)), chain=steps)
        assert await app.AsyncResult("last") == 1104
        await result
    values: list[Any] = [await child.get() for child in result.children]
    assert sorted(values) == [14, 104]


async def test_a_failure_is_that_of_the_rest_of_the_chain(app: TaskQ) -> None:
    @app.task
    async def fail() -> None:
        raise ValueError("in the middle")

    steps = [Signature[Any]("nowhere", options={"task_id": task_id}) for task_id in ("last", "next")]
    async with running(app):
        await fail.apply_async(chain=[step.to_dict() for step in steps])
        for task_id in ("next", "last"):
            with pytest.raises(ValueError, match="in the middle"):
                await app.AsyncResult(task_id)


async def test_a_callback_that_cannot_be_called_makes_it_a_failure(app: TaskQ) -> None:
    @app.task
    async def one() -> int:
        return 1

    @app.task
    async def takes_none() -> None: ...

    link: AnyTask = takes_none
    async with running(app):
        result = await one.apply_async(link=link.s())
        with pytest.raises(TypeError, match="wrong arguments"):
            await result


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_new_errbacks_run_here_with_what_they_were_given(app: TaskQ, kind: str) -> None:
    calls: list[tuple[Any, ...]] = []

    async def coroutine(request: Request, exc: Exception, traceback: str, *args: Any, **kwargs: Any) -> None:
        calls.append((request.id, repr(exc), "in fail" in traceback, args, kwargs))

    def thread(request: Request, exc: Exception, traceback: str, *args: Any, **kwargs: Any) -> None:
        calls.append((request.id, repr(exc), "in fail" in traceback, args, kwargs))

    @app.task
    async def fail() -> None:
        raise ValueError("no")

    errback: AnyTask = app.task(name="errback")(coroutine if kind == "coroutine" else thread)
    async with running(app):
        result = await fail.apply_async(link_error=errback.s(1, k=2))
        await result.get(propagate=False)
    assert calls == [(result.id, "ValueError('no')", True, (1,), {"k": 2})]


async def test_the_failure_is_stored_before_an_errback_runs(app: TaskQ) -> None:
    seen = []

    @app.task
    async def fail() -> None:
        raise ValueError("no")

    @app.task
    async def errback(request: Request, exc: Exception, traceback: str) -> None:
        seen.append((await app.AsyncResult(request.id).refresh()).state)

    link: AnyTask = errback
    async with running(app):
        await (await fail.apply_async(link_error=link.s())).get(propagate=False)
    assert seen == ["FAILURE"]


async def test_old_errbacks_are_sent_and_an_immutable_one_gets_nothing(app: TaskQ) -> None:
    calls: list[Any] = []

    @app.task
    async def fail() -> None:
        raise ValueError("no")

    @app.task
    async def old(task_id: str) -> None:
        calls.append(task_id)

    @app.task(bind=True)
    async def bound(self: AnyTask, *args: Any) -> None:
        calls.append((self.request.parent_id, args))

    links: list[AnyTask] = [old, bound]
    async with running(app):
        result = await fail.apply_async(link_error=[links[0].s(), links[1].si("own")])
        await result.get(propagate=False)
        await eventually(lambda: len(calls) == 2)
    assert set(calls) == {result.id, (result.id, ("own",))}


@pytest.mark.parametrize("broken", ["raises", "arguments"])
async def test_an_errback_that_fails_changes_nothing(
    app: TaskQ, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    @app.task
    async def fail() -> None:
        raise ValueError("the first")

    @app.task
    async def raises(request: Request, exc: Exception, traceback: str) -> None:
        raise RuntimeError("the second")

    @app.task
    async def takes_none() -> None: ...

    errback: AnyTask = raises if broken == "raises" else takes_none
    async with running(app):
        result = await fail.apply_async(link_error=errback.s())
        with pytest.raises(ValueError, match="the first"):
            await result
    assert "errback" in caplog.text
    assert await waiting(app) == 0


async def test_direct_calls_raise_instead_of_retrying(app: TaskQ) -> None:
    @app.task(bind=True)
    async def flaky(self: AnyTask, reason: Exception | None = None) -> None:
        raise self.retry(exc=reason)

    with pytest.raises(ValueError, match="why"):
        await flaky(ValueError("why"))
    with pytest.raises(Retry):
        await flaky()
