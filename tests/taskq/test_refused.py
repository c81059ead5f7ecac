"""What no worker would run, or what cannot be meant, is told to the caller at once; what is plainly meant is taken."""

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any

import pytest

from taskq import Task, TaskQ, chain, chord, shared_task, task
from taskq.testing import start_worker

HOUR = timedelta(hours=1)
AnyTask = Task[Any, Any, Any]


@pytest.fixture
def app() -> TaskQ:
    return TaskQ("refused", broker=f"memory://{uuid.uuid4()}")


@pytest.fixture
def pair(app: TaskQ) -> AnyTask:
    @app.task(name="pair")
    async def pair(a: Any = None, b: Any = None) -> list[Any]:
        return [a, b]

    return pair


@pytest.mark.parametrize(
    "options", [{"time_limit": -1}, {"priority": True}, {"eta": 5.0}, {"queue": ""}], ids=repr
)
async def test_wrong_options_are_told_by_every_verb(
    app: TaskQ, pair: AnyTask, options: dict[str, Any]
) -> None:
    with pytest.raises((TypeError, ValueError), match="the option"):
        await pair.apply_async((1, 2), **options)
    with pytest.raises((TypeError, ValueError), match="the option"):
        await app.send_task("pair", (1, 2), **options)
    with pytest.raises((TypeError, ValueError), match="the option"):
        await pair.s(1, 2).apply_async(**options)
    with pytest.raises((TypeError, ValueError), match="the option"):
        chain(pair.s(1), pair.si().set(**options))
    app.conf.task_always_eager = True
    with pytest.raises((TypeError, ValueError), match="the option"):
        await pair.apply_async((1, 2), **options)


@pytest.mark.parametrize("args", ["ab", b"ab", {"a": 1}, {1, 2}, 5], ids=repr)
async def test_arguments_are_a_list_or_a_tuple(app: TaskQ, pair: AnyTask, args: Any) -> None:
    with pytest.raises(TypeError, match="args is"):
        await pair.apply_async(args)
    with pytest.raises(TypeError, match="args is"):
        await app.send_task("pair", args)
    with pytest.raises(TypeError, match="args is"):
        await pair.s(1).apply_async(args)
    with pytest.raises(TypeError, match="args is"):
        pair.signature(args)


@pytest.mark.parametrize("kwargs", [["a"], {1: 2}], ids=repr)
async def test_keyword_arguments_are_a_mapping_of_names(pair: AnyTask, kwargs: Any) -> None:
    with pytest.raises(TypeError, match="kwargs is"):
        await pair.apply_async((), kwargs)


async def test_none_stands_for_no_arguments(app: TaskQ, pair: AnyTask) -> None:
    async with start_worker(app):
        assert await (await pair.apply_async(None, None)) == [None, None]
        assert await (await app.send_task("pair", None, None)) == [None, None]
        assert await (await pair.signature(None).delay()) == [None, None]


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
async def test_times_of_later_steps_are_carried_by_any_serializer(serializer: str) -> None:
    app = TaskQ(
        "steps",
        broker=f"memory://steps-{serializer}",
        task_serializer=serializer,
        accept_content=["json", "msgpack"],
    )

    @app.task(name="one")
    async def one(x: Any = 1) -> Any:
        return x

    soon = datetime.now(UTC)
    flows: list[Any] = [
        chain(one.s(1), one.s().set(expires=HOUR)),
        chain(one.s(1), one.s().set(expires=soon + HOUR)),
        chain(one.s(1), one.s().set(eta=soon - HOUR)),
        chain(one.s(1), one.s().set(eta=(soon - HOUR).isoformat())),
        one.s(1).set(link=one.s().set(expires=HOUR)),
        chord([one.s(1), one.s(1)], one.s().set(expires=HOUR)),
    ]
    async with start_worker(app):
        for flow in flows:
            assert await (await flow.delay()).get(timeout=10) in (1, [1, 1])


async def test_text_is_a_time(app: TaskQ, pair: AnyTask) -> None:
    past = (datetime.now(UTC) - HOUR).isoformat()
    message = app.encoded(pair.s(1, 2).set(eta=past, expires="2035-01-01"), None, "")
    assert message.headers["eta"] == past
    assert message.headers["expires"] == "2035-01-01T00:00:00+00:00"


# == tasks


@pytest.mark.parametrize(
    "options",
    [
        {"max_retries": -1},
        {"max_retries": "3"},
        {"default_retry_delay": float("nan")},
        {"default_retry_delay": None},
        {"autoretry_for": "ValueError"},
        {"autoretry_for": (ValueError, "KeyError")},
        {"throws": 5},
        {"retry_kwargs": {"count_down": 5}},
        {"retry_kwargs": {"countdown": "5"}},
        {"retry_kwargs": None},
        {"retry_backoff": "yes"},
        {"retry_backoff_max": float("inf")},
        {"time_limit": -1},
        {"priority": True},
        {"acks_late": 1},
        {"ignore_result": "no"},
        {"expires": float("inf")},
        {"queue": ""},
        {"name": 5},
        {"run_in": "cellar"},
    ],
    ids=repr,
)
def test_wrong_options_of_a_task_are_told_when_it_is_made(app: TaskQ, options: Any) -> None:
    def task() -> None: ...

    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        app.task(**options)(task)


def test_every_option_of_a_task_is_looked_at() -> None:
    assert set(task._KINDS) | {"name", "base"} == set(task.TaskOptions.__annotations__)


def test_one_exception_class_is_one_of_several(app: TaskQ) -> None:
    @app.task(autoretry_for=ValueError, throws=KeyError, dont_autoretry_for=OSError)
    def task() -> None: ...

    assert (task.autoretry_for, task.throws) == ((ValueError,), (KeyError,))
    assert task.dont_autoretry_for == (OSError,)


def test_a_generator_is_no_task(app: TaskQ) -> None:
    def plain() -> Iterator[int]:
        yield 1

    async def awaited() -> AsyncIterator[int]:
        yield 1

    for function in (plain, awaited):
        with pytest.raises(TypeError, match="is a generator"):
            app.task(function)


def hidden(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Doubler:
    __name__ = "doubler"

    async def __call__(self, x: int) -> int:
        return 2 * x


async def test_a_coroutine_behind_a_decorator_is_awaited(app: TaskQ) -> None:
    @app.task(name="wrapped")
    @hidden
    async def wrapped(x: int) -> int:
        return 2 * x

    doubler: AnyTask = app.task(name="doubler")(Doubler())
    async with start_worker(app):
        assert await (await wrapped.delay(5)).get(timeout=10) == 10
        assert await (await doubler.delay(5)).get(timeout=10) == 10
    assert await wrapped(4) == 8  # a direct call gives what the function gives


def test_two_functions_of_one_name_are_told_of(app: TaskQ) -> None:
    @app.task(name="twice")
    def first() -> None: ...

    with pytest.warns(RuntimeWarning, match="two functions have the task name 'twice'"):

        @app.task(name="twice")
        def second() -> None: ...

    assert app.find_task("twice") is second


def test_the_same_function_again_is_no_mistake(app: TaskQ) -> None:
    def function() -> None: ...

    app.task(function)
    app.task(function)


def test_two_shared_functions_of_one_name_are_told_of() -> None:
    @shared_task(name="tests.shared-twice")
    def first() -> None: ...

    with pytest.warns(RuntimeWarning, match="two functions"):

        @shared_task(name="tests.shared-twice")
        def second() -> None: ...
