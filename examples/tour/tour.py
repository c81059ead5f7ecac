"""`make run`: a real worker, and an application that calls its tasks in every way, on the embedded broker.

The queue is a SQLite file in a temporary folder; with TASKQ_BROKER_URL set it is the broker named there. Ends by
itself; the exit code is 0 only if every outcome was the documented one.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from stage import Surprise, Worker, code, expect, paint, running_worker, show, title
from tasks import add, app, divide, hello, multiply, on_error

from taskq import TaskRevokedError, group

SECONDS_PER_STEP = 10.0


async def plain(_: Worker) -> str:
    code("await (await add.delay(2, 2))        # an async def, on the worker's event loop")
    result = await add.delay(2, 2)
    value = await result
    show(f"{value}")
    expect("add", value, 4)
    code("await (await multiply.delay(6, 7))   # a plain def, in one of its threads")
    product = await multiply.delay(6, 7)
    show(f"{await product}")
    expect("multiply", await product, 42)
    return product.id


async def countdown(_: Worker) -> str:
    code("await add.apply_async((2, 2), countdown=3)")
    sent = time.monotonic()
    result = await add.apply_async((2, 2), countdown=3)
    show("sent; it waits in the broker")
    value = await result
    waited = time.monotonic() - sent
    show(f"{value}, after {waited:.2f} s")
    expect("add", value, 4)
    expect("never before 3 s", waited >= 3, True)
    return result.id


async def expires(_: Worker) -> str:
    code("await add.apply_async((2, 2), expires=an_hour_ago)")
    result = await add.apply_async((2, 2), expires=datetime.now(UTC) - timedelta(hours=1))
    try:
        await result
    except TaskRevokedError as error:
        show(f"TaskRevokedError: {error}; the task did not run")
        return result.id
    raise Surprise("an expired task ran")


async def link(_: Worker) -> str:
    code("await add.apply_async((2, 2), link=add.s(16))")
    result = await add.apply_async((2, 2), link=add.s(16))
    show(f"{await result}")
    [callback] = result.children
    total = await callback
    show(f"{total}, from the callback: it was called with the 4")
    expect("add(add(2, 2), 16)", total, 20)
    return callback.id


async def link_error(worker: Worker) -> str:
    code("await divide.apply_async((1, 0), link_error=on_error.s())")
    result = await divide.apply_async((1, 0), link_error=on_error.s())
    try:
        await result
    except ZeroDivisionError as error:
        show(f"the caller gets {error!r}")
    else:
        raise Surprise("1 / 0 succeeded")
    await worker.says(f"Task {result.id} raised")
    show("and the errback has printed it, in the worker")
    return result.id


async def progress(_: Worker) -> str:
    code("await result.get(on_message=print)")
    messages: list[dict[str, Any]] = []

    def on_message(body: dict[str, Any]) -> None:
        messages.append(body)
        show(f"{body['status']:8} {body['result']}")

    result = await hello.delay(40, 2)
    value = await result.get(on_message=on_message)
    expect("hello", value, "hello world: 42")
    expect("its messages", [(body["status"], body["result"]) for body in messages], HELLO)
    return result.id


HELLO = [
    ("PROGRESS", {"progress": 50}),
    ("PROGRESS", {"progress": 90}),
    ("SUCCESS", "hello world: 42"),
]


async def priority(_: Worker) -> str:
    code("await add.apply_async((2, 2), queue='priority.high', priority=9)")
    result = await add.apply_async((2, 2), queue="priority.high", priority=9)
    async for state in result.events():
        show(f"{state.state:8} {state.value}")
    expect("add", await result, 4)
    return result.id


async def many(_: Worker) -> str:
    code("await group(add.s(i, i) for i in (2, 4, 8, 16)).apply_async()")
    result = await group(add.s(i, i) for i in (2, 4, 8, 16)).apply_async()
    values = await result
    show(f"{values}")
    expect("the group, in order", values, [4, 8, 16, 32])
    return result[-1].id


STEPS: list[tuple[str, Callable[[Worker], Awaitable[str]]]] = [
    ("Call and wait", plain),
    ("Later", countdown),
    ("Not too late", expires),
    ("And then: a callback", link),
    ("When it fails: an errback", link_error),
    ("How far it is: every state, in order", progress),
    ("Another queue, urgent", priority),
    ("Many at once", many),
]


async def tour() -> int:
    failed = 0
    began = time.monotonic()
    title("A worker, in a process of its own")
    async with app, running_worker() as worker:
        for number, (name, step) in enumerate(STEPS, 1):
            title(f"{number}. {name}")
            try:
                async with asyncio.timeout(SECONDS_PER_STEP):
                    await worker.ended(await step(worker))
            except Exception as error:  # noqa: BLE001 - whatever went wrong is shown, and the tour goes on
                failed += 1
                show(paint(31, f"not as documented: {type(error).__name__}: {error}"))
    outcome = f"{len(STEPS) - failed} of {len(STEPS)} as documented, in {time.monotonic() - began:.1f} s"
    title(paint(31 if failed else 32, outcome))
    return 1 if failed else 0


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="taskq-tour-") as folder:
        os.chdir(folder)  # where the default broker, sqlite:///.taskq/taskq.db, puts its file
        try:
            return asyncio.run(tour())
        except Surprise as surprise:
            title(paint(31, str(surprise)))
            return 1
        finally:
            os.chdir("/")


if __name__ == "__main__":
    sys.exit(main())
