"""What type checkers make of calls: `assert_type` is checked by mypy and pyright, and runs as it stands."""

from collections.abc import Coroutine
from typing import Any, assert_type

from taskq import AsyncResult, GroupResult, Signature, Task, TaskQ, group, registry, shared_task
from taskq.sync import SyncResult

app = TaskQ("typing", broker="memory://typing")


@app.task
async def add(x: int, y: int = 0) -> int:
    return x + y


@app.task
def shout(text: str) -> str:
    return text.upper()


@app.task(bind=True, max_retries=5)
async def scaled(self: Task[Any, Any, Any], x: float) -> float:
    return x * (self.max_retries or 0)


@app.task(name="typing.named")
def named(flag: bool) -> None:  # noqa: FBT001 - a task's parameter
    del flag


@shared_task
async def shared(x: int) -> list[int]:
    return [x]


del registry.shared[shared.name]  # other tests have the process's registry to themselves


async def calls() -> None:
    assert_type(await add.delay(1, y=2), AsyncResult[int])
    assert_type(await (await add.delay(1)), int)
    assert_type(await (await add.apply_async((1, 2), countdown=1)).get(timeout=1), int)
    assert_type(await shout.delay("a"), AsyncResult[str])
    assert_type(await scaled.delay(1.5), AsyncResult[float])
    assert_type(await named.delay(flag=True), AsyncResult[None])
    assert_type(await shared.delay(1), AsyncResult[list[int]])
    assert_type(add.s(1, 2), Signature[int])
    assert_type(await add.si(1, 2).apply_async(), AsyncResult[int])
    assert_type(await group(add.s(1, 1), add.s(2, 2)).apply_async(), GroupResult[int])
    assert_type(await (await group(add.s(i, i) for i in range(3)).delay()), list[int])
    await add.delay("one")  # type: ignore[arg-type]  # delay takes exactly the function's parameters
    await add.delay(1, 2, 3)  # type: ignore[call-arg]  # delay takes exactly the function's parameters
    await add.apply_async((1,), contdown=1)  # type: ignore[call-arg]  # options are known by name


async def here_and_now() -> None:
    coroutine: Coroutine[Any, Any, int] = add(1, 2)
    assert_type(await coroutine, int)
    assert_type(shout("a"), str)
    assert_type(add.sync.delay(1, 2), SyncResult[int])
    assert_type(add.sync.apply_async((1, 2)).get(), int)


def test_a_direct_call_of_a_plain_task_runs_it() -> None:
    assert shout("a") == "A"
