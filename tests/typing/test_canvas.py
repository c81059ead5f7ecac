"""What type checkers make of workflows: checked by mypy and pyright; what is not async also runs as it stands."""

from collections.abc import AsyncIterator
from typing import Any, assert_type

from taskq import AsyncResult, GroupResult, ResultSet, Signature, TaskQ, chain, chord, chunks, group
from taskq.sync import SyncGroupResult, SyncResult

app = TaskQ("typing", broker="memory://typing")


@app.task
async def add(x: int, y: int) -> int:
    return x + y


@app.task
def total(numbers: list[int]) -> float:
    return float(sum(numbers))


@app.task
async def shown(value: float, digits: int, *, unit: str = "") -> str:
    return f"{value:.{digits}f}{unit}"


@app.task
def beep() -> None:
    pass


def partials() -> None:
    assert_type(add.s(1, 2), Signature[int])
    assert_type(add.s(4), Signature[int])
    assert_type(add.s(), Signature[int])
    assert_type(shown.s(2), Signature[str])
    assert_type(shown.s(2, unit="m"), Signature[str])
    assert_type(shown.s(1.5, 2, unit="m"), Signature[str])
    assert_type(beep.s(), Signature[None])
    assert_type(add.si(1, 2), Signature[int])
    add.s("4")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    add.s(1, 2, 3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    shown.s("two")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    shown.s(2, unit=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    add.si(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def pipes() -> None:
    assert_type(add.s(2, 2) | add.s(4), Signature[int])
    assert_type(add.s(2, 2) | shown.s(2), Signature[str])
    assert_type(group(add.s(1, 1), add.s(2, 2)) | total.s(), Signature[float])
    assert_type(group(add.s(1, 1), add.s(2, 2)) | total.s() | shown.s(1), Signature[str])
    assert_type(chain(add.s(2, 2), shown.s(2)), chain[str])
    assert_type(chain(add.s(2, 2), add.s(2), shown.s(2)), chain[str])
    assert_type(chord([add.s(1, 1)], total.s()), chord[float])
    assert_type(group(add.s(i, i) for i in range(3)), group[int])
    assert_type(add.chunks([(1, 2), (3, 4)], 1), chunks[int])
    assert_type(add.starmap([(1, 2)]), Signature[list[int]])
    assert_type(add.s(1).set(queue="slow").on_error(beep.si()), Signature[int])


async def members() -> AsyncIterator[Signature[int]]:
    for i in range(3):
        yield add.s(i, i)


async def sending() -> None:
    assert_type(await (add.s(2, 2) | shown.s(2)).delay(), AsyncResult[str])
    assert_type(await group(add.s(1, 1)).delay(), GroupResult[int])
    assert_type(await group(members(), app=app)(), GroupResult[int])
    assert_type(await add.chunks([(1, 2)], 1)(), GroupResult[list[int]])
    assert_type(await (await group(add.s(1, 1))()), list[int])
    assert_type(await chord([add.s(1, 1)])(total.s()), AsyncResult[float])
    assert_type(await chord(members(), total.s()).delay(), AsyncResult[float])
    assert_type(await ResultSet([await add.delay(1, 1)]), list[int])


def blocking() -> None:
    assert_type((add.s(2, 2) | shown.s(2)).sync.delay(), SyncResult[str])
    assert_type(group(add.s(1, 1)).sync.delay().get(), list[int])
    assert_type(group(add.s(1, 1)).sync.apply_async(), SyncGroupResult[int])


def test_what_is_wrong_for_a_type_checker_is_found_when_it_is_sent() -> None:
    calls: list[Signature[Any]] = [add.s(1, 2), add.s(4), beep.s()]
    assert [call.args for call in calls] == [(1, 2), (4,), ()]
