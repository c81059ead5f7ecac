"""Who calls which errback, row by row as docs/canvas.md has it."""

from collections.abc import Callable
from typing import Any

import pytest

from taskq import Request, Signature, Task, TaskQ, chain, chord, group
from tests.harness import running
from tests.polling import eventually

Called = list[tuple[str, str, str]]


@pytest.fixture
def called(app: TaskQ) -> Called:
    """The calls of errbacks: style, whose failure, and the error where the style tells it."""
    calls: Called = []
    names: dict[str, str] = {}

    @app.task(name="ok")
    async def ok(*args: Any) -> Any:
        return args[-1]

    @app.task(name="bad", bind=True)
    async def bad(self: Task[Any, Any, Any], *args: Any) -> None:
        names[self.request.id] = args[-1]
        raise ValueError(args[-1])

    @app.task(name="new")
    async def new(request: Request, exc: Exception, traceback: str | None, *args: Any) -> None:
        calls.append(("new", names.get(request.id, request.id), repr(exc).partition("(")[0]))

    @app.task(name="old")
    async def old(task_id: str) -> None:
        calls.append(("old", names.get(task_id, task_id), ""))

    @app.task(name="other", bind=True)
    async def other(self: Task[Any, Any, Any], task_id: str, kind: str = "") -> None:
        calls.append(("old", names.get(task_id, task_id), "bound"))

    @app.task(name="instead", bind=True)
    async def instead(self: Task[Any, Any, Any], name: str) -> None:
        raise self.replace(app.signature("bad", (name,)))

    return calls


Make = Callable[[TaskQ], Signature[Any]]
ROWS: dict[str, tuple[Make, list[str]]] = {
    "a task": (lambda app: bad(app, "a").link_error(new(app)), ["a"]),
    "a task that ends well": (lambda app: ok(app, "a").link_error(new(app)), []),
    "a chain: the step that fails": (
        lambda app: chain(ok(app, "a"), bad(app, "b"), ok(app, "c")).link_error(new(app)),
        ["b"],
    ),
    "one step of a chain: its own failure": (
        lambda app: chain(bad(app, "a"), ok(app, "b").link_error(new(app))),
        [],
    ),
    "a group: every member that fails": (
        lambda app: group(bad(app, "a"), ok(app, "b"), bad(app, "c")).link_error(new(app)),
        ["a", "c"],
    ),
    "a group of chains": (
        lambda app: group(chain(ok(app, "a"), bad(app, "b")), bad(app, "c")).link_error(new(app)),
        ["b", "c"],
    ),
    "a chord whose body fails": (
        lambda app: chord([ok(app, "a"), ok(app, "b")], bad(app, "body")).link_error(new(app)),
        ["body"],
    ),
    "a chord whose header fails: in the name of the body": (
        lambda app: chord([ok(app, "a"), bad(app, "b")], ok(app, "body", "id")).link_error(new(app)),
        ["id"],
    ),
    "a body whose header fails": (
        lambda app: chord([bad(app, "a")], ok(app, "body", "id").link_error(new(app))),
        ["id"],
    ),
    "a member of a header": (
        lambda app: chord([bad(app, "a").link_error(new(app)), ok(app, "b")], ok(app, "body")),
        ["a"],
    ),
    "a header as a group: its members": (
        lambda app: chord(group(bad(app, "a"), ok(app, "b")).link_error(new(app)), ok(app, "body")),
        ["a"],
    ),
    "a body that is a chain: in the name of its last task": (
        lambda app: chord([bad(app, "a")], chain(ok(app, "b"), ok(app, "c", "id")).link_error(new(app))),
        ["id"],
    ),
    "the first task of a body that is a chain": (
        lambda app: chord([bad(app, "a")], chain(ok(app, "b").link_error(new(app)), ok(app, "c", "id"))),
        ["id"],
    ),
    "a body that is a group: in the name of every member": (
        lambda app: chord([bad(app, "a")], group(ok(app, "b", "b"), ok(app, "c", "c")).link_error(new(app))),
        ["b", "c"],
    ),
    "a chord in a header: what fails goes on to the outer body": (
        lambda app: chord(
            [chord([bad(app, "a")], ok(app, "inner", "in").link_error(new(app)))],
            ok(app, "outer", "out").link_error(new(app)),
        ),
        ["in", "out"],
    ),
    "a chain that ends in a chord": (
        lambda app: chain(ok(app, "a"), chord([bad(app, "b")], ok(app, "body", "id"))).link_error(new(app)),
        ["id"],
    ),
    "a task that is replaced": (
        lambda app: app.signature("instead", ("a",)).link_error(new(app)),
        ["a"],
    ),
}


def ok(app: TaskQ, name: str, task_id: str | None = None) -> Signature[Any]:
    return app.signature("ok", (name,)).set(task_id=task_id)


def bad(app: TaskQ, name: str) -> Signature[Any]:
    return app.signature("bad", (name,))


def new(app: TaskQ) -> Signature[Any]:
    return app.signature("new")


async def finished(app: TaskQ, made: Signature[Any]) -> None:
    """Sent, run, and nothing left to do."""
    async with running(app):
        handle = await made.apply_async()
        await handle.get(timeout=10, propagate=False)
        broker = await app.open_broker()

        async def idle() -> bool:
            return await broker.size("celery") == 0

        await eventually(idle)  # what still runs is waited for when the worker drains


@pytest.mark.parametrize("row", ROWS)
async def test_the_new_style_is_called_by(app: TaskQ, called: Called, row: str) -> None:
    make, wanted = ROWS[row]
    await finished(app, make(app))
    assert sorted(name for _, name, _ in called) == wanted
    chords = {"id", "in", "out"} | ({"b", "c"} if "that is a group" in row else set())
    assert all(error == ("ChordError" if name in chords else "ValueError") for _, name, error in called)


def in_old_style(made: Any) -> Any:
    """The same with the errback in the old style."""
    if isinstance(made, list | tuple):
        return [in_old_style(item) for item in made]
    if isinstance(made, dict):
        changed = {key: in_old_style(value) for key, value in made.items()}
        return {**changed, "task": "old"} if made.get("task") == "new" else changed
    return made


@pytest.mark.parametrize("row", ROWS)
async def test_the_old_style_is_called_by(app: TaskQ, called: Called, row: str) -> None:
    make, wanted = ROWS[row]
    await finished(app, app.signature(in_old_style(make(app).to_dict())))
    assert sorted(called) == [("old", name, "") for name in wanted]


async def test_both_styles_at_once_and_the_errback_of_a_bound_task_is_of_the_old(
    app: TaskQ, called: Called
) -> None:
    errbacks = [app.signature(name) for name in ("new", "old", "other")]
    await finished(app, bad(app, "a").link_error(*errbacks))
    assert sorted(called) == [("new", "a", "ValueError"), ("old", "a", ""), ("old", "a", "bound")]


async def test_an_errback_that_fails_hurts_nobody(app: TaskQ, called: Called) -> None:
    @app.task
    async def broken(request: Request, exc: Exception, traceback: str) -> None:
        raise RuntimeError("in an errback")

    made = bad(app, "a").link_error(broken.s(), new(app), app.signature("ok", kwargs={"unknown": 1}))
    await finished(app, made)
    assert called == [("new", "a", "ValueError")]


async def test_a_revoked_task_calls_none(app: TaskQ, called: Called) -> None:
    result = await ok(app, "a").link_error(new(app)).apply_async(expires=-1)
    async with running(app):
        await result.get(timeout=10, propagate=False)
    assert result.state == "REVOKED"
    assert called == []
