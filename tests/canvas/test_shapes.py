"""Workflows of every shape that has gone wrong somewhere: what they give, and who is told of their failures.

Many shapes are those for which Celery has tests or open reports; each is run here with the outcome its users expect.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest

from taskq import ChordError, Signature, Task, TaskQ, chain, chord, group
from tests.harness import Place, running
from tests.polling import eventually

Make = Callable[["Tasks"], Signature[Any]]


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def place(request: pytest.FixtureRequest) -> Place:
    found = request.getfixturevalue(f"place_{request.param}")
    assert isinstance(found, Place)
    return found


class Tasks(NamedTuple):
    """`log` is what notes and errbacks have written."""

    app: TaskQ
    log: list[str]
    add: Task[..., Any, Any]
    same: Task[[Any], Any, Any]
    total: Task[[Any], int, Any]
    fail: Task[..., None, Any]
    note: Task[..., None, Any]
    each: Task[..., Any, Any]
    instead: Task[..., Any, Any]
    later: Task[..., Any, Any]
    fail_instead: Task[..., None, Any]


@pytest.fixture
def tasks(app: TaskQ) -> Tasks:
    log: list[str] = []

    @app.task
    async def note(*args: str) -> None:
        log.append(args[-1])

    parts: list[Any] = [*plain(app), note]
    return Tasks(app, log, *parts, *controls(app, note))


def plain(app: TaskQ) -> Any:
    @app.task
    async def add(x: Any, y: Any) -> Any:
        return x + y

    @app.task
    async def same(x: Any) -> Any:
        return x

    @app.task
    async def total(numbers: Any) -> int:
        return sum(n if isinstance(n, int) else sum(n) for n in numbers)

    @app.task
    async def fail(*args: Any) -> None:
        raise ValueError("expected")

    return add, same, total, fail


def controls(app: TaskQ, note: Task[..., None, Any]) -> Any:
    add, same, fail = (app.tasks[f"{__name__}.{name}"] for name in ("add", "same", "fail"))

    @app.task(bind=True)
    async def each(self: Task[Any, Any, Any], numbers: list[Any], more: Any) -> Any:
        raise self.replace(group(add.s(number, more) for number in numbers))

    @app.task(bind=True)
    async def instead(self: Task[Any, Any, Any], x: Any, link: str = "", link_error: str = "") -> Any:
        steps = chain(same.s(x), fail.s() if link_error else same.s())
        steps = steps.link(note.si(link)) if link else steps
        raise self.replace(steps.link_error(note.si(link_error)) if link_error else steps)

    @app.task(bind=True)
    async def later(self: Task[Any, Any, Any], x: Any = None) -> Any:
        if self.request.retries < 1:
            raise self.retry(countdown=0)
        return x

    @app.task(bind=True)
    async def fail_instead(self: Task[Any, Any, Any], *args: Any) -> None:
        raise self.replace(fail.si())

    return each, instead, later, fail_instead


def twice(made: Signature[Any]) -> group[Any]:
    return group(made, made)


VALUES: dict[str, tuple[Make, Any]] = {
    # chains
    "one task": (lambda t: chain(t.add.s(3, 4)), 7),
    "a chain in a chain": (lambda t: chain(chain(t.same.s(42))), 42),
    "a line, a line with a replaced task, a group": (
        lambda t: (
            t.add.s(2, 2) | (t.add.s(4) | t.instead.s() | t.add.s(16)) | group(t.add.s(i) for i in range(3))
        ),
        [24, 25, 26],
    ),
    "a group of a chain that ends in a group": (
        lambda t: group(t.add.s(1, 2) | group(t.add.s(1), t.add.s(2))),
        [[4, 5]],
    ),
    "a chain in a group takes what comes": (
        lambda t: t.add.s(5, 6) | group(t.add.s(1) | t.add.s(2), t.add.s(3)),
        [14, 14],
    ),
    "two tasks and a chain that ends in a group": (
        lambda t: group(t.same.si(1), t.same.si(2), chain(t.same.si(5), group(t.same.si(3), t.same.si(4)))),
        [1, 2, [3, 4]],
    ),
    "a task, a group, a group, a task": (
        lambda t: t.add.si(1, 0) | twice(t.add.s(1)) | twice(t.total.s()) | t.total.s(),
        8,
    ),
    "task and chord by turns": (
        lambda t: (
            t.add.si(1, 0)
            | twice(t.add.s(1))
            | t.total.s()
            | t.add.s(1)
            | chord(twice(t.add.s(1)), t.total.s())
        ),
        12,
    ),
    "chains of chords, joined": (
        lambda t: (
            chain(
                chord(twice(t.add.si(1, 0)), t.total.s()),
                chord(twice(t.add.s(1)), t.total.s()),
                chord(twice(t.add.s(0)), t.total.s()),
            )
            | chain(
                chord(twice(t.add.s(10)), t.total.s()),
                chord(twice(t.add.s(0)), t.total.s()),
                chord(twice(t.add.s(1)), t.total.s()),
            )
        ),
        178,
    ),
    "nine chords one after the other": (
        lambda t: chain(
            chord([t.add.si(1, 0)] * 3, t.total.s()),
            *(chord([t.add.s(1)] * 3, t.total.s()) for _ in range(7)),
            chord([t.add.s(0)] * 3, t.total.s()),
        ),
        29520,
    ),
    "a chord, tasks, a group": (
        lambda t: twice(t.add.s(1, 1)) | t.total.s() | t.add.s(1) | t.add.s(1) | twice(t.add.s(1)),
        [7, 7],
    ),
    "a chain of one group": (lambda t: chain(twice(t.same.s(42))), [42, 42]),
    "a group in the middle": (lambda t: chain(t.same.s(42), twice(t.same.s()), t.same.s()), [42, 42]),
    "groups of one task": (
        lambda t: chain(group(t.same.s(1)), group(t.add.s(1)), t.add.s(1)),
        3,
    ),
    "an empty group on the way": (lambda t: chain(t.same.s(1), group(), t.add.s(1)), 2),
    "chains and groups in bodies of bodies": (
        lambda t: chord(
            [t.add.s(0, 1)],
            chord(
                [t.total.s(), t.total.s()],
                chain(t.total.s(), group(t.add.s(8), t.add.s(16)), t.total.s() | t.add.s(32)),
            ),
        ),
        60,
    ),
    "a hundred and fifty steps": (
        lambda t: chain(t.add.s(0, 1), *(t.add.s(1) for _ in range(149))),
        150,
    ),
    # groups
    "groups in groups": (
        lambda t: group(t.same.s(1), group(t.same.s(2), group(t.same.s(3), t.same.s(4)))),
        [1, 2, 3, 4],
    ),
    "three hundred members": (lambda t: group(t.same.s(i) for i in range(300)), list(range(300))),
    "chords in a group": (
        lambda t: twice(chord(group(t.add.s(1, 2), t.add.s(3, 4)), t.total.s())),
        [10, 10],
    ),
    "a chord with every kind in its header": (
        lambda t: group(
            chord(
                [
                    t.same.si(42),
                    chain([t.same.si(42)] * 7),
                    group([t.same.si(42)] * 7),
                    chord([t.same.si(42)] * 7, t.same.si(1337)),
                ],
                t.same.s(),
            )
        ),
        [[42, 42, *[42] * 7, 1337]],
    ),
    "a chord in a group whose body is a chain of one": (
        lambda t: group(chord(t.same.si(42), chain(t.same.s()))),
        [[42]],
    ),
    # chords
    "a header of one task": (lambda t: chord([t.add.s(2, 5)], t.same.s()), [7]),
    "a body that becomes a group": (lambda t: chord([t.add.s(2, 5), t.add.s(1, 1)], t.each.s(9)), [16, 11]),
    "an empty header": (lambda t: chord([], t.each.s(9)), []),
    "an empty group and a body": (lambda t: group() | t.same.s(), []),
    "results in order": (lambda t: chord((t.same.si(i) for i in range(40)), t.same.s()), list(range(40))),
    "chords in chords, with replaced tasks": (
        lambda t: chord(
            [
                chord([t.add.s(1, 2), t.instead.s(7)], t.each.s(5)) | t.total.s(),
                chord([t.instead.s(13), t.add.s(0, 0)], t.each.s(8)) | t.total.s(),
            ],
            t.each.s(9),
        ),
        [29, 38],
    ),
    "headers of one in headers of one": (
        lambda t: chord(
            [chord([chord([chord([t.add.s(1, 2)], t.add.s([3]))], t.add.s([4]))], t.add.s([5]))], t.add.s([6])
        ),
        [[[[3, 3], 4], 5], 6],
    ),
    "a chord in a chain in a header in a chain": (
        lambda t: chain(
            t.same.si(1),
            chord(
                [t.same.si(2), chain(t.same.si(3), chord([t.same.si(4), t.same.si(5)], t.same.si(6)))],
                t.same.s(),
            ),
        ),
        [2, 6],
    ),
    "a group in a chord is part of it": (lambda t: chord([twice(t.same.s(42))], t.same.s()), [42, 42]),
    "what ends in a group is one part": (
        lambda t: chord(group(chain(t.same.s(42), twice(t.same.s()))), t.same.s()),
        [[42, 42]],
    ),
    "a nested group of chains in the middle": (
        lambda t: chain(
            t.add.si(1, 0),
            group(t.add.si(1, 100), chain(t.add.si(1, 200), group(t.add.si(1, 1000), t.add.si(1, 2000)))),
            t.same.s(),
        ),
        [101, [1001, 2001]],
    ),
    "three hundred in a header after a task": (
        lambda t: t.same.si(1) | group(t.same.s() for _ in range(300)) | t.total.s(),
        300,
    ),
    # replaced
    "replaced by a chain, alone": (lambda t: t.instead.s(42), 42),
    "replaced by a chain, first": (lambda t: chain(t.instead.s(42), t.same.s()), 42),
    "replaced by a chain, last": (lambda t: chain(t.same.s(42), t.instead.s()), 42),
    "replaced in a group": (lambda t: group(t.same.s(1), t.instead.s(2), t.same.s(3)), [1, 2, 3]),
    "replaced by groups in a group": (
        lambda t: group([t.each.s([2, 1], 1), t.each.s([4, 3], 1)] * 5),
        [[3, 2], [5, 4]] * 5,
    ),
    "replaced in a header": (lambda t: chord([t.same.s(1), t.instead.s(2)], t.same.s()), [1, 2]),
    "replaced by a group in a header": (
        lambda t: chord([t.each.s([1, 2], 1), t.same.s(3)], t.same.s()),
        [[2, 3], 3],
    ),
    "replaced in a body": (
        lambda t: chord([t.same.s(42)], chain(t.same.s(), t.instead.s(), t.same.s())),
        [42],
    ),
    "retried in every place": (
        lambda t: chain(t.later.s(1), chord([t.later.s(), t.later.s()], t.later.s()), t.total.s()),
        2,
    ),
}


@pytest.mark.parametrize("shape", VALUES)
async def test_a_shape_gives(tasks: Tasks, shape: str) -> None:
    make, wanted = VALUES[shape]
    async with running(tasks.app):
        assert await (await make(tasks).apply_async()).get(timeout=30) == wanted


@pytest.mark.parametrize("shape", VALUES)
async def test_it_gives_the_same_by_its_wire_form(tasks: Tasks, shape: str) -> None:
    make, wanted = VALUES[shape]
    async with running(tasks.app):
        again = tasks.app.signature(make(tasks).to_dict())
        assert await (await again.apply_async()).get(timeout=30) == wanted


@pytest.mark.parametrize("place", ["memory"], indirect=True)
@pytest.mark.parametrize("shape", VALUES)
async def test_it_gives_the_same_here_and_now(tasks: Tasks, shape: str) -> None:
    make, wanted = VALUES[shape]
    assert await (await make(tasks).apply()).get() == wanted


#: What is told to whom: the workflow, its value or its error, and what the notes say.
Told = tuple[Make, Any, Sequence[str]]
TOLD: dict[str, Told] = {
    "a callback on each step": (
        lambda t: chain(t.same.si(1).link(t.note.si("called")) for _ in range(20)),
        1,
        ["called"] * 20,
    ),
    "an errback on each step": (
        lambda t: chain(t.fail.si().link_error(t.note.si("failed")) for _ in range(20)),
        ValueError,
        ["failed"],
    ),
    "links of a chain inside a chain": (
        lambda t: chain(
            chain(t.same.s("a"), t.add.s("b")).link(t.note.si("inner")).link_error(t.note.si("never")),
            t.add.s("c"),
        ),
        "abc",
        ["inner"],
    ),
    "links of a chain with a replaced step": (
        lambda t: chain(t.same.s("a"), t.instead.s(link="inner"), t.add.s("b")).link(t.note.s()),
        "ab",
        ["inner", "ab"],
    ),
    "errbacks of a chain whose step was replaced by what fails": (
        lambda t: chain(t.same.s("a"), t.instead.s(link_error="inner"), t.add.s("b")).link_error(
            t.note.si("outer")
        ),
        ValueError,
        ["inner", "outer"],
    ),
    "a callback of a step that is replaced": (
        lambda t: chain(t.instead.si(7).link(t.note.si("called")), t.same.s()),
        7,
        ["called"],
    ),
    "an errback of a step that is replaced": (
        lambda t: chain(t.fail_instead.si().link_error(t.note.si("failed")), t.same.si(1)),
        ValueError,
        ["failed"],
    ),
    "the errback of a chain after a step that was replaced": (
        lambda t: chain(t.instead.si(1), t.fail.s()).link_error(t.note.si("failed")),
        ValueError,
        ["failed"],
    ),
    "a callback on each member": (
        lambda t: group(t.same.si(1).link(t.note.si("called")) for _ in range(20)),
        [1] * 20,
        ["called"] * 20,
    ),
    "the errback of a group, many failures": (
        lambda t: group(*(t.same.si(1) for _ in range(9)), *(t.fail.s() for _ in range(20))).link_error(
            t.note.si("failed")
        ),
        ValueError,
        ["failed"] * 20,
    ),
    "the links of a group with a replaced member": (
        lambda t: group(t.instead.si(1), t.same.si(2)).link(t.note.si("called")),
        [1, 2],
        ["called"],
    ),
    "a member that is replaced by what fails": (
        lambda t: group(t.fail_instead.si().link_error(t.note.si("failed")), t.same.si(2)),
        ValueError,
        ["failed"],
    ),
    "the errback of a chord, many failures in its header": (
        lambda t: chord(
            [*(t.same.si(1) for _ in range(9)), *(t.fail.s() for _ in range(20))], t.note.si("body")
        ).link_error(t.note.si("failed")),
        ChordError,
        ["failed"],
    ),
    "the errback of a chord whose body is a group, many failures in it": (
        lambda t: chord([t.same.si(1)], group(t.same.s(), *(t.fail.s() for _ in range(20)))).link_error(
            t.note.si("failed")
        ),
        ValueError,
        ["failed"] * 20,
    ),
    "a chain that fails in the middle of a header": (
        lambda t: chord([chain(t.same.si(1), t.fail.s(), t.same.si(1))], t.note.si("body")).link_error(
            t.note.si("failed")
        ),
        ChordError,
        ["failed"],
    ),
    "a chain that fails in the middle of a body": (
        lambda t: chord([t.same.si(1)], chain(t.same.s(), t.fail.s(), t.note.si("body"))).link_error(
            t.note.si("failed")
        ),
        ValueError,
        ["failed"],
    ),
    "a chord in a header fails": (
        lambda t: chord(
            [t.same.si(1), chord([t.same.si(1), t.fail.si()], t.note.si("inner body"))], t.note.si("body")
        ).link_error(t.note.si("failed")),
        ChordError,
        ["failed"],
    ),
    "the links of a body and of its chord": (
        lambda t: chord([t.same.si(1)], t.same.s().link(t.note.si("body's"))).link(t.note.si("chord's")),
        [1],
        ["body's", "chord's"],
    ),
    "each of many groups runs once": (
        lambda t: chain(
            group(t.note.si("1"), t.note.si("2"), t.note.si("3")),
            group(t.note.si("4"), t.note.si("5"), t.note.si("6")),
            group(t.note.si("7")),
            group(t.note.si("8")),
            t.note.si("9"),
            t.note.si("end"),
        ),
        None,
        [*"123456789", "end"],
    ),
    "each of many groups after a chord runs once": (
        lambda t: chain(
            chord([t.note.si("1"), t.note.si("2")], group(t.note.si("3"), t.note.si("4"))),
            group(t.note.si("5"), t.note.si("6"), t.note.si("7")),
            group(t.note.si("8")),
            group(t.note.si("9")),
        ),
        None,
        [*"123456789"],
    ),
    "a chain after a chord of groups runs once": (
        lambda t: chain(
            group(t.note.si("1"), t.note.si("2")) | group(t.note.si("3"), t.note.si("4")),
            t.note.si("5") | t.note.si("6"),
        ),
        None,
        [*"123456"],
    ),
}
#: A header that fails, and each kind of body.
BODIES: dict[str, Make] = {
    "task": lambda t: t.note.si("body"),
    "chain": lambda t: chain(t.note.si("body"), t.note.si("body")),
    "group": lambda t: group(t.note.si("body"), t.note.si("body")),
    "chord": lambda t: chord([t.note.si("body"), t.note.si("body")], t.note.si("body")),
    "line of groups": lambda t: group(t.note.si("body")) | group(t.note.si("body"), t.note.si("body")),
}


async def outcome(result: Any) -> Any:
    try:
        return await result.get(timeout=30)
    except (ValueError, ChordError) as error:
        return type(error)


@pytest.mark.parametrize("shape", TOLD)
async def test_a_shape_tells(tasks: Tasks, shape: str) -> None:
    make, wanted, notes = TOLD[shape]
    async with running(tasks.app):
        assert await outcome(await make(tasks).apply_async()) == wanted
        await eventually(lambda: len(tasks.log) >= len(notes))
        await idle(tasks.app)
    assert Counter(tasks.log) == Counter(notes)


@pytest.mark.parametrize("place", ["memory"], indirect=True)
@pytest.mark.parametrize("shape", TOLD)
async def test_a_shape_tells_the_same_here_and_now(tasks: Tasks, shape: str) -> None:
    make, wanted, notes = TOLD[shape]
    assert await outcome(await make(tasks).apply()) == wanted
    assert Counter(tasks.log) == Counter(notes)


@pytest.mark.parametrize("body", BODIES)
async def test_a_failed_header_fails_its_body(tasks: Tasks, body: str) -> None:
    made = chain(group(tasks.same.si(1), tasks.fail.si()), BODIES[body](tasks))
    async with running(tasks.app):
        result: Any = await made.apply_async()
        assert await outcome(result) is ChordError
        await idle(tasks.app)
    assert tasks.log == []


async def idle(app: TaskQ) -> None:
    """Nothing waits any more; what runs is waited for when the worker drains."""
    broker = await app.open_broker()

    async def empty() -> bool:
        return await broker.size("celery") == 0

    await eventually(empty)
