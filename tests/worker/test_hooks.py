"""Hooks of tasks and signals: what they are told, where they run, and that they change nothing by failing."""

import functools
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from taskq import Task, TaskQ, signals
from tests.harness import running
from tests.polling import eventually

AnyTask = Task[Any, Any, Any]
CALLS: list[Any] = []


class Told(Task[Any, Any, Any]):
    """Every hook, plain."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        CALLS.append(("before_start", list(args), kwargs))

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        CALLS.append(("on_success", retval))

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: str | None) -> None:
        CALLS.append(("on_failure", repr(exc), "Traceback" in (einfo or "")))

    def on_retry(
        self, exc: BaseException | None, task_id: str, args: Any, kwargs: Any, einfo: str | None
    ) -> None:
        CALLS.append(("on_retry", repr(exc)))

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: str | None
    ) -> None:
        CALLS.append(("after_return", status, threading.current_thread().name.startswith("taskq-")))


class ToldAsync(Told):
    """One of them a coroutine."""

    async def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:  # type: ignore[override]  # allowed
        CALLS.append(("async on_success", retval))


class Broken(Task[Any, Any, Any]):
    def after_return(self, *args: Any) -> None:
        raise RuntimeError("a broken hook")


class Refusing(Task[Any, Any, Any]):
    def before_start(self, *args: Any) -> None:
        raise RuntimeError("not today")


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    CALLS.clear()
    every = [signal for signal in vars(signals).values() if isinstance(signal, signals.Signal)]
    before = {signal: list(signal.receivers) for signal in every}
    yield
    for signal, receivers in before.items():
        signal.receivers[:] = receivers


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_hooks_are_told_of_every_end(app: TaskQ, kind: str) -> None:
    async def coroutine(self: AnyTask, how: str) -> str:
        return act(self, how)

    def thread(self: AnyTask, how: str) -> str:
        return act(self, how)

    def act(task: AnyTask, how: str) -> str:
        if how == "retry" and not task.request.retries:
            raise task.retry(exc=KeyError("k"), countdown=0)
        if how == "fail":
            raise ValueError("no")
        return how

    decorate = app.task(bind=True, base=Told, name="told")
    task = decorate(coroutine if kind == "coroutine" else thread)
    inside = kind == "thread"
    async with running(app, concurrency=1):
        await (await task.delay("work"))
        await eventually(lambda: len(CALLS) == 3)  # hooks are called when the state is stored
        assert [
            ("before_start", ["work"], {}),
            ("on_success", "work"),
            ("after_return", "SUCCESS", inside),
        ] == CALLS
        CALLS.clear()
        await (await task.delay("fail")).get(propagate=False)
        await eventually(lambda: len(CALLS) == 3)
        assert CALLS[1:] == [("on_failure", "ValueError('no')", True), ("after_return", "FAILURE", inside)]
        CALLS.clear()
        await (await task.delay("retry"))
        await eventually(lambda: len(CALLS) == 6)
        assert CALLS[1:3] == [("on_retry", "KeyError('k')"), ("after_return", "RETRY", inside)]
        assert CALLS[-2:] == [("on_success", "retry"), ("after_return", "SUCCESS", inside)]


async def test_a_hook_may_be_a_coroutine_also_of_a_plain_task(app: TaskQ) -> None:
    @app.task(base=ToldAsync)
    def plain() -> int:
        return 1

    async with running(app):
        await (await plain.delay())
    assert ("async on_success", 1) in CALLS


async def test_a_failing_hook_is_logged_and_changes_nothing(
    app: TaskQ, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(base=Broken)
    async def fine() -> str:
        return "fine"

    async with running(app):
        assert await (await fine.delay()) == "fine"
    assert "a broken hook" in caplog.text


async def test_before_start_may_refuse_a_run(app: TaskQ) -> None:
    @app.task(base=Refusing)
    async def never() -> None:
        CALLS.append(("ran",))

    async with running(app):
        with pytest.raises(RuntimeError, match="not today"):
            await (await never.delay())
    assert CALLS == []


async def test_signals_of_a_run_that_works(app: TaskQ) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    record("before_task_publish", "after_task_publish")
    record("task_received", "task_prerun", "task_success", "task_postrun")
    result = await add.delay(2, y=2)
    async with running(app):
        await result
    told: dict[str, dict[str, Any]] = dict(CALLS)
    assert list(told) == [
        "before_task_publish",
        "after_task_publish",
        "task_received",
        "task_prerun",
        "task_success",
        "task_postrun",
    ]
    assert told["before_task_publish"]["sender"] == add.name
    assert told["before_task_publish"]["headers"]["id"] == result.id
    assert told["task_received"]["request"].id == result.id
    assert told["task_prerun"]["task_id"] == result.id
    assert told["task_prerun"]["kwargs"] == {"y": 2}
    assert told["task_success"]["result"] == 4
    assert told["task_postrun"]["task"] is add


async def test_signals_of_what_a_worker_sends(app: TaskQ) -> None:
    """Celery's workers tell of callbacks, steps of chains and retries as its callers do."""

    @app.task(bind=True)
    async def again(self: AnyTask) -> str:
        if not self.request.retries:
            raise self.retry(countdown=0)
        return "done"

    @app.task
    async def step(value: str) -> str:
        return value

    record("before_task_publish", "after_task_publish")
    async with running(app):
        result = await (again.s().link(step.s()) | step.s()).apply_async()
        assert await result == "done"
        assert result.parent is not None
        await eventually(lambda: len(CALLS) == 8)
    for signal in ("before_task_publish", "after_task_publish"):
        told = [arguments for name, arguments in CALLS if name == signal]
        assert [arguments["sender"] for arguments in told] == [again.name, again.name, step.name, step.name]
        assert [arguments["headers"]["retries"] for arguments in told] == [0, 1, 0, 0]
        assert {told[0]["headers"]["id"], told[1]["headers"]["id"]} == {result.parent.id}
        assert result.id in {arguments["headers"]["id"] for arguments in told[2:]}


def record(*names: str) -> None:
    for name in names:
        getattr(signals, name).connect(functools.partial(receive, name))


def receive(signal: str, /, **arguments: Any) -> None:
    CALLS.append((signal, arguments))


async def test_signals_of_other_ends(app: TaskQ) -> None:
    @app.task(bind=True)
    async def act(self: AnyTask, how: str) -> None:
        if how == "retry" and not self.request.retries:
            raise self.retry(exc=KeyError("k"), countdown=0)
        if how == "fail":
            raise ValueError("no")

    record("task_retry", "task_failure", "task_revoked", "task_unknown", "task_rejected")
    async with running(app):
        await (await act.delay("fail")).get(propagate=False)
        await (await act.delay("retry"))
        expired = await act.apply_async(("never",), expires=-1)
        await expired.get(propagate=False)
        revoked = await act.apply_async(("never",), countdown=0.1)
        await revoked.revoke()
        await revoked.get(propagate=False)
        await (await app.send_task("proj.nowhere")).get(propagate=False)
        await (await act.apply_async(("never",), serializer="pickle")).get(propagate=False)
    told = [(name, arguments) for name, arguments in CALLS]
    assert [name for name, _ in told] == [
        "task_failure",
        "task_retry",
        "task_revoked",
        "task_revoked",
        "task_unknown",
        "task_rejected",
    ]
    assert repr(told[0][1]["exception"]) == "ValueError('no')"
    assert repr(told[1][1]["reason"]) == "KeyError('k')"
    assert [told[i][1]["expired"] for i in (2, 3)] == [True, False]
    assert told[4][1]["name"] == "proj.nowhere"
    assert "accept_content" in str(told[5][1]["exc"])


async def test_a_failing_receiver_is_logged_and_changes_nothing(
    app: TaskQ, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task
    async def fine() -> str:
        return "fine"

    def broken(**_: Any) -> None:
        raise RuntimeError("a broken receiver")

    for signal in (
        signals.task_prerun,
        signals.task_success,
        signals.task_postrun,
        signals.before_task_publish,
    ):
        signal.connect(broken)
    async with running(app):
        assert await (await fine.delay()) == "fine"
    assert caplog.text.count("a broken receiver") >= 4


async def test_signals_of_the_worker(app: TaskQ) -> None:
    record("worker_init", "worker_ready", "worker_shutting_down", "worker_shutdown")
    async with running(app) as worker:
        assert [name for name, _ in CALLS] == ["worker_init", "worker_ready"]
    assert [name for name, _ in CALLS][2:] == ["worker_shutting_down", "worker_shutdown"]
    assert {arguments["sender"] for _, arguments in CALLS} == {worker}
