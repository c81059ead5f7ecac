"""What a task knows and may do in each place of a workflow: ids, arguments, limits, stamps, members that come later."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from taskq import (
    AsyncResult,
    ChordError,
    ConfigError,
    GroupResult,
    Ignore,
    Request,
    Signature,
    SoftTimeLimitExceeded,
    StampingVisitor,
    Task,
    TaskQ,
    TaskRevokedError,
    chain,
    chord,
    group,
)
from taskq.errors import Unroutable
from taskq.results.handles import result_from_tuple
from tests.harness import Place, running
from tests.polling import eventually

AnyTask = Task[Any, Any, Any]


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def place(request: pytest.FixtureRequest) -> Place:
    found = request.getfixturevalue(f"place_{request.param}")
    assert isinstance(found, Place)
    return found


@pytest.fixture
def same(app: TaskQ) -> AnyTask:
    @app.task
    async def same(x: Any = None, y: int = 0) -> Any:
        return x + y if y else x

    return same


@pytest.fixture
def total(app: TaskQ) -> AnyTask:
    @app.task
    async def total(numbers: list[int]) -> int:
        return sum(numbers)

    return total


@pytest.fixture
def each(app: TaskQ, same: AnyTask) -> AnyTask:
    @app.task(bind=True)
    async def each(self: AnyTask, numbers: list[Any], more: Any) -> Any:
        raise self.replace(group(same.s(number, more) for number in numbers))

    return each


async def value(made: Signature[Any], *args: Any, **kwargs: Any) -> Any:
    return await (await made.apply_async(args, kwargs)).get(timeout=20)


# == ids


async def test_every_task_knows_its_root_and_its_parent(app: TaskQ) -> None:
    @app.task(bind=True)
    async def ids(self: AnyTask, x: Any = None) -> Any:
        return [self.request.root_id, self.request.parent_id, x]

    tell: AnyTask = ids
    for made in (
        chain(tell.si(), tell.si(), chord([tell.si() for _ in range(5)], chain(tell.s(), tell.si()))),
        tell.si() | tell.si() | group(tell.si() for _ in range(5)) | tell.s() | tell.si(),
    ):
        async with running(app):
            last: Any = await made.apply_async()
            body, header = last.parent, last.parent.parent
            second, first = header.parent, header.parent.parent
            assert isinstance(header, GroupResult)
            assert isinstance(first, AsyncResult)
            assert await last.get(timeout=20) == [first.id, body.id, None]
            root, parent, parts = await body
            assert root == first.id
            assert parent in {member.id for member in header}  # the one that came last
            assert parts == [[first.id, second.id, None]] * 5
            assert await second == [first.id, first.id, None]
            assert await first == [first.id, None, None]


async def test_ids_that_are_given(app: TaskQ, same: AnyTask, total: AnyTask) -> None:
    async with running(app):
        made: list[Signature[Any]] = [
            same.s(1) | same.s().set(task_id="a"),
            same.s(1) | same.s(),
            chord([same.s(1)], total.s()),
            group(same.s(1), same.s(2)),
        ]
        given = [
            await made[0].apply_async(),
            *[await m.apply_async(task_id=i) for m, i in zip(made[1:], "bcd", strict=True)],
        ]
        assert [result.id for result in given] == ["a", "b", "c", "d"]
        assert [await result.get(timeout=20) for result in given] == [1, 1, 1, [1, 2]]


# == arguments of the call


async def test_arguments_go_to_what_runs_first(
    app: TaskQ, same: AnyTask, total: AnyTask, each: AnyTask
) -> None:
    async with running(app):
        assert await value(chain(chain(same.s(), same.s())), 1) == 1
        assert await value(chain(chord([same.s(), same.s()], same.s()), same.s()), 1) == [1, 1]
        flow = group(same.s() for _ in range(3)) | each.s(8)
        assert await value(flow, 4, y=1) == [13, 13, 13]
        assert await value(same.s(2) | group(same.s(i) for i in (1, 2)) | each.s(8), y=1) == [12, 13]


async def test_a_group_of_one_before_a_task(app: TaskQ, same: AnyTask, total: AnyTask) -> None:
    """By a pipe it is a chord, so that the task gets a list of any length; `chain` dissolves it (as in Celery)."""
    async with running(app):
        for n in range(3):
            assert await value(group(same.si(5) for _ in range(n)) | total.s()) == 5 * n
        assert await value(chain(group(same.s(5)), same.s())) == 5
        assert await value(same.s(1) | group(same.s(5)) | same.s()) == 6


# == failures


async def test_a_chord_whose_members_meet_their_time_limits(
    app: TaskQ, same: AnyTask, total: AnyTask
) -> None:
    @app.task(soft_time_limit=0.1)
    async def gentle() -> int:
        try:
            await asyncio.sleep(60)
        except SoftTimeLimitExceeded:
            return 1
        return 0

    @app.task(time_limit=0.1)
    async def hard() -> None:
        await asyncio.sleep(60)

    async with running(app):
        assert await value(chord([same.s(2), gentle.s()], total.s())) == 3
        with pytest.raises(ChordError, match="TimeLimitExceeded"):
            await value(chord([same.s(2), hard.s()], total.s()))


async def test_nothing_is_to_be_sent(app: TaskQ, same: AnyTask) -> None:
    empty: GroupResult[Any] = await group().apply_async()
    assert await empty == []
    await empty.save()
    assert await app.GroupResult(empty.id) == empty

    @app.task(bind=True)
    async def nothing(self: AnyTask) -> Any:
        raise self.replace(chain())

    async with running(app):
        with pytest.raises(ConfigError, match="a chain without tasks"):
            await value(nothing.s() | same.si(1))


@pytest.mark.parametrize("how", ["revoked", "expired"])
async def test_what_comes_after_a_revoked_step_is_revoked_with_it(
    app: TaskQ, same: AnyTask, how: str
) -> None:
    options: Any = {"expires": -1} if how == "expired" else {"task_id": "revoked-step"}
    step = same.si(1).set(**options)
    made = same.si(1) | step | same.s() | group(same.s(), same.s() | same.s())
    in_header = chord([same.si(1), chain(same.si(1), step.set(task_id="in-header"), same.s())], same.s())
    if how == "revoked":
        await app.control.revoke(["revoked-step", "in-header"])
    async with running(app):
        last: Any = await made.apply_async()
        for result in (*last.leaves(), last.parent, last.parent.parent):
            with pytest.raises(TaskRevokedError, match=how):
                await result.get(timeout=20)
        assert await last.parent.parent.parent.get(timeout=20) == 1
        with pytest.raises(ChordError, match="TaskRevokedError"):
            await value(in_header)


async def test_a_step_that_is_ignored_fails_the_chord_around_its_chain(app: TaskQ, same: AnyTask) -> None:
    @app.task
    async def ignored(x: Any) -> None:
        raise Ignore

    async with running(app):
        with pytest.raises(ChordError, match="Ignore"):
            await value(chord([same.s(1), same.s(1) | ignored.s() | same.s()], same.s()))


async def test_whatever_keeps_a_follow_up_from_being_sent_is_a_failure(place: Place) -> None:
    def route(name: str, *_: Any, **__: Any) -> None:
        if name == "lost":
            raise KeyError("no such place")

    app = place.app(task_routes=[route])

    @app.task
    async def fine(x: Any = None) -> int:
        return 1

    @app.task(bind=True)
    async def replaced(self: AnyTask) -> None:
        raise self.replace(app.signature("lost"))

    lost = app.signature("lost")
    async with app, running(app):
        for made in (replaced.s() | fine.s(), fine.s() | lost | fine.s(), fine.s().link(lost) | fine.s()):
            with pytest.raises(KeyError, match="no such place"):
                await value(made)
        for header, body in (([fine.s()], lost), ([fine.s(), replaced.s() | fine.s()], fine.s())):
            with pytest.raises(ChordError, match="no such place"):
                await value(chord(header, body))


@pytest.fixture
def told(app: TaskQ) -> list[str]:
    """What errbacks of either style were called with."""
    calls: list[str] = []

    @app.task(name="new")
    async def new(request: Request, exc: Exception, traceback: str | None) -> None:
        result = await app.AsyncResult(request.id).refresh()
        calls.append(f"new {type(exc).__name__} {result.state}")

    @app.task(name="old")
    async def old(task_id: str) -> None:
        calls.append("old")

    return calls


async def test_what_waits_for_a_task_that_no_queue_takes_learns_of_it(
    app: TaskQ, same: AnyTask, told: list[str]
) -> None:
    lost = same.s().set(exchange="nowhere", routing_key="nobody")
    after = same.s(1) | lost | same.s()
    errbacks = app.signature("new"), app.signature("old")
    async with running(app):
        with pytest.raises(Unroutable, match="nowhere"):
            await value(after.link_error(*errbacks))
        await eventually(lambda: sorted(told) == ["new Unroutable FAILURE", "old"])
        told.clear()
        for made in (after, same.s(1) | lost, chord([same.s(1)], same.s()) | lost | same.s()):
            with pytest.raises(ChordError, match="Unroutable"):
                await value(chord([same.s(1), made], same.s()).link_error(*errbacks))
            await eventually(lambda: sorted(told) == ["new ChordError FAILURE", "old"])
            told.clear()


# == changing


async def test_canvases_are_added_to_a_chord(app: TaskQ, same: AnyTask, total: AnyTask) -> None:
    @app.task(bind=True)
    async def spread(self: AnyTask) -> int:
        await self.add_to_chord(group(same.s(i, 4) for i in (1, 2)) | total.s())
        await self.add_to_chord(chain(same.s(1), same.s(1)))
        await self.add_to_chord(group(same.s(1), same.s(2)))
        return 0

    async with running(app):
        first, *added = await value(chord([spread.s()], same.s()))
    assert first == 0
    assert sorted(added, key=str) == [11, 2, [1, 2]]


async def test_handles_are_results_as_well(app: TaskQ, same: AnyTask) -> None:
    sent: list[Any] = []

    @app.task
    async def send() -> Any:
        sent.append(await (same.s(1) | group(same.s(), same.s())).apply_async())
        return sent[0]

    async with running(app):
        told = await value(send.s())
        handle: Any = result_from_tuple(told, app)
        assert handle == sent[0]
        assert await handle.get(timeout=20) == [1, 1]
        assert await handle.parent.get(timeout=20) == 1


class Mark(StampingVisitor):
    def __init__(self, **marks: Any) -> None:
        self.marks = marks

    def on_signature(self, sig: Signature[Any], **headers: Any) -> Mapping[str, Any]:
        return self.marks


@pytest.fixture
def stamps(app: TaskQ) -> dict[str, Any]:
    """Stamps that reached the worker, by the task's argument and the number of its retries."""
    found: dict[str, Any] = {}

    @app.task(name="seen", bind=True)
    async def seen(self: AnyTask, name: str, retries: int = 0) -> str:
        found[f"{name}{self.request.retries}"] = dict(self.request.stamps)
        if self.request.retries < retries:
            raise self.retry(countdown=0)
        return name

    return found


def seen(app: TaskQ, *args: Any) -> Signature[Any]:
    return app.signature("seen", args, immutable=True)


async def test_stamps_stay_with_a_retry(app: TaskQ, stamps: dict[str, Any]) -> None:
    async with running(app):
        await value(seen(app, "a", 1).stamp(Mark(tenant="acme")))
    assert stamps == {"a0": {"tenant": "acme"}, "a1": {"tenant": "acme"}}


REPLACEMENTS: dict[str, Callable[[TaskQ], Signature[Any]]] = {
    "task": lambda app: seen(app, "a"),
    "chain": lambda app: seen(app, "a") | seen(app, "b"),
    "group": lambda app: group(seen(app, "a"), seen(app, "b")),
    "chord": lambda app: chord([seen(app, "a"), seen(app, "b")], seen(app, "c").link(seen(app, "d"))),
}


@pytest.mark.parametrize("kind", REPLACEMENTS)
async def test_what_replaces_a_stamped_task_has_its_stamps_and_its_own(
    app: TaskQ, stamps: dict[str, Any], kind: str
) -> None:
    @app.task(bind=True)
    async def replaced(self: AnyTask) -> None:
        raise self.replace(REPLACEMENTS[kind](app).stamp(Mark(version=2, stage="new")))

    made = replaced.s().stamp(tenant="acme", stage="old").link(seen(app, "after"))
    async with running(app):
        await value(made)
        await eventually(lambda: "after0" in stamps)
        count = {"task": 1, "chain": 2, "group": 2, "chord": 4}[kind]
        await eventually(lambda: len(stamps) == count + 1)
    assert stamps.pop("after0") == {}  # it was linked later
    assert all(found == {"tenant": "acme", "version": 2, "stage": "new"} for found in stamps.values())


def test_a_stamp_that_is_given_twice() -> None:
    once = Signature[Any]("t").stamp(tenant="acme")
    assert once.stamp(tenant="beta").options["tenant"] == "beta"
    assert once.stamp(tenant="beta", append_stamps=True).options["tenant"] == ["acme", "beta"]
    assert once.stamp(tenant="acme", append_stamps=True).options["tenant"] == ["acme"]
    assert once.stamp(Mark(order=17)).options == {
        "tenant": "acme",
        "order": 17,
        "stamped_headers": ["order", "tenant"],
    }


async def test_links_in_their_wire_form_are_stamped(app: TaskQ, stamps: dict[str, Any]) -> None:
    made = Signature[Any]("seen", ("a",), None, {"link": seen(app, "b").to_dict()}, app=app)
    async with running(app):
        await value(made.stamp(Mark(order=17)))
        await eventually(lambda: len(stamps) == 2)
    assert stamps == {"a0": {"order": 17}, "b0": {"order": 17}}


# == members that come later


async def members(app: TaskQ, n: int = 3) -> AsyncIterator[Signature[Any]]:
    for i in range(n):
        yield app.signature("seen", (str(i),))


async def test_what_is_done_to_a_group_is_done_to_members_that_come_later(
    app: TaskQ, same: AnyTask, stamps: dict[str, Any]
) -> None:
    made = group(members(app, 250), app=app).stamp(tenant="acme").skew(start=0.01, stop=0.03, step=0.01)
    called = made.link(seen(app, "called")).clone(kwargs={"retries": 0})
    async with running(app):
        assert await value(called) == [str(i) for i in range(250)]
        await eventually(lambda: "called0" in stamps)
        assert stamps.pop("called0") == {}
    assert list(stamps.values()) == [{"tenant": "acme"}] * 250
    assert await value_of_chord(app, same) == [str(i) for i in range(3)]


async def value_of_chord(app: TaskQ, same: AnyTask) -> Any:
    async with running(app):
        return await value(chord(members(app), same.s()).stamp(tenant="acme"))


@pytest.mark.parametrize(
    "make",
    [
        lambda app: chain(seen(app, "a"), group(members(app))),
        lambda app: chain(group(members(app))),
        lambda app: group(group(members(app))),
        lambda app: chord([chord(members(app), seen(app, "a"))], seen(app, "b")),
        lambda app: seen(app, "a").link(group(members(app))),
    ],
    ids=["in a chain", "a chain of it", "in a group", "in a header", "as a callback"],
)
async def test_members_that_nobody_knows_yet_are_not_left_out(
    app: TaskQ, make: Callable[[TaskQ], Signature[Any]]
) -> None:
    with pytest.raises(ConfigError, match="from an async generator can only be sent by itself"):
        await make(app).apply_async()


async def test_nor_where_they_would_replace_a_task(app: TaskQ, stamps: dict[str, Any]) -> None:
    @app.task(bind=True)
    async def replaced(self: AnyTask) -> None:
        raise self.replace(group(members(app)))

    async with running(app):
        with pytest.raises(ConfigError, match="from an async generator"):
            await value(replaced.s())
