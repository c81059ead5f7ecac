"""Making tasks: their names, their options, how they behave when they are called like functions."""

from collections.abc import Mapping
from typing import Any

import pytest

import taskq
from taskq import MaxRetriesExceededError, OperationalError, Task, TaskQ
from taskq.task import TaskOptions


def test_a_task_is_named_after_its_module_and_function(app: TaskQ) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        """Add two numbers."""
        return x + y

    assert add.name == f"{__name__}.add"
    shown: Any = add
    assert (shown.__name__, shown.__doc__) == ("add", "Add two numbers.")
    assert repr(add) == f"<Task {__name__}.add>"
    assert app.tasks[add.name] is add
    assert app.find_task(add.name) is add


def test_tasks_of_a_script_are_named_after_the_app(app: TaskQ) -> None:
    def main_function() -> None: ...

    main_function.__module__ = "__main__"
    assert app.task(main_function).name == "proj.main_function"


async def test_called_it_is_the_function(app: TaskQ) -> None:
    @app.task
    def plain(x: int) -> int:
        return x + 1

    @app.task
    async def coroutine(x: int) -> int:
        return x + 1

    @app.task(bind=True)
    def bound(self: Task[Any, Any, Any], x: int) -> tuple[str, bool, int]:
        return self.name, self.request.called_directly, x

    assert (plain(1), await coroutine(1)) == (2, 2)
    assert bound(1) == (bound.name, True, 1)


def test_an_unknown_option_is_refused_with_the_likely_one(app: TaskQ) -> None:
    with pytest.raises(TypeError, match=r"unknown option 'max_retry' of a task.*max_retries"):
        app.task(max_retry=3)(lambda: None)  # type: ignore[call-overload]  # what is tested


@pytest.mark.parametrize(
    "options",
    [{"max_retries": None, "default_retry_delay": 1.5}, {"queue": "slow", "priority": 3, "typing": False}],
)
def test_options_become_attributes(app: TaskQ, options: Mapping[str, Any]) -> None:
    assert set(options) <= set(TaskOptions.__annotations__)

    def fun() -> None: ...

    task: Task[Any, Any, Any] = app.task(**options)(fun)
    assert {name: getattr(task, name) for name in options} == options


def test_attributes_of_the_function_do_not_become_the_tasks(app: TaskQ) -> None:
    def fun() -> None: ...

    fun.name = "mine"  # type: ignore[attr-defined]  # as other decorators do
    fun.run = None  # type: ignore[attr-defined]  # as other decorators do
    task = app.task(fun)
    assert task.name == f"{__name__}.fun"
    assert task() is None


def test_a_base_class_brings_attributes_and_is_shown(app: TaskQ) -> None:
    class WithDatabase(Task[Any, Any, Any]):
        max_retries = 9
        database = "the one"

    @app.task(base=WithDatabase, bind=True)
    def read(self: WithDatabase) -> str:
        return self.database

    assert (read(), read.max_retries) == ("the one", 9)


def test_errors_are_at_hand(app: TaskQ) -> None:
    @app.task
    def fun() -> None: ...

    assert fun.OperationalError is OperationalError is taskq.OperationalError
    assert fun.MaxRetriesExceededError is MaxRetriesExceededError


async def test_arguments_are_checked_when_it_is_called(app: TaskQ) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(typing=False)
    def loose(x: int) -> int:
        return x

    wrong: Task[Any, Any, Any] = add
    for call in (wrong.delay(1), wrong.apply_async((1, 2, 3)), wrong.s(1).delay(), wrong.delay(1, 2, z=3)):
        with pytest.raises(TypeError, match="called with wrong arguments"):
            await call
    anything: Task[Any, Any, Any] = loose
    await anything.delay(1, 2, 3)
    assert await (await app.open_broker()).size("celery") == 1


async def test_an_unknown_option_of_a_call_is_refused_with_the_likely_one(app: TaskQ) -> None:
    @app.task
    def fun() -> None: ...

    with pytest.raises(TypeError, match=r"unknown option 'count_down' of a call.*countdown"):
        await fun.apply_async(count_down=3)  # type: ignore[call-arg]  # what is tested
    with pytest.raises(TypeError, match=r"unknown key 'max_retry' of a retry_policy.*max_retries"):
        await fun.apply_async(retry_policy={"max_retry": 3})  # type: ignore[arg-type]  # what is tested
    verbs: list[Any] = [fun.signature, fun.apply, fun.s().set, fun.s().clone]
    for verb in verbs:
        with pytest.raises(TypeError, match="unknown option 'qeue'"):
            verb(qeue="slow")


async def test_a_handle_of_an_earlier_call(app: TaskQ) -> None:
    @app.task
    def fun() -> None: ...

    result = await fun.delay()
    assert fun.AsyncResult(result.id) == result
    assert await fun.AsyncResult(result.id).ready() is False


async def test_a_publisher_of_the_tasks_own_connection(app: TaskQ) -> None:
    @app.task
    def fun() -> None: ...

    async with fun.get_publisher() as publisher:
        await fun.apply_async(publisher=publisher)
        await fun.apply_async(producer=publisher)
    assert await (await app.open_broker()).size("celery") == 2


async def test_outside_a_run_states_and_progress_are_of_no_run(app: TaskQ) -> None:
    @app.task(bind=True)
    async def fun(self: Task[Any, Any, Any]) -> str:
        await self.update_state("PROGRESS")
        await self.progress(1, 2)
        return "done"

    assert await fun() == "done"
