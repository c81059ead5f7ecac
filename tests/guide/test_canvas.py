"""Every example of Celery's guide "Canvas: Designing Work-flows", in the guide's order, with the outcome it documents.

What Celery blocks on is awaited here, and signatures are values: `link`, `stamp` and the like return a new one.
"""

import io
from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from taskq import (
    AsyncResult,
    ChordError,
    GroupResult,
    IncompleteStream,
    Request,
    ResultSet,
    Signature,
    StampingVisitor,
    StoreError,
    Task,
    TaskQ,
    chain,
    chord,
    chunks,
    group,
    maybe_signature,
    signature,
    xmap,
    xstarmap,
)
from tests.conftest import ALL_PLACES
from tests.harness import Place, running
from tests.polling import eventually

NAME = "tests.guide.test_canvas"


@pytest.fixture(params=[*ALL_PLACES, pytest.param("rpc", marks=pytest.mark.rabbitmq)])
def place(request: pytest.FixtureRequest) -> Place:
    found = request.getfixturevalue(f"place_{request.param}")
    assert isinstance(found, Place)
    return found


class Tasks(NamedTuple):
    """The guide's tasks; `log` is what they do to the world."""

    app: TaskQ
    log: list[Any]
    add: Task[[int, int], int, Any]
    mul: Task[[int, int], int, Any]
    xsum: Task[[list[int]], int, Any]
    echo: Task[..., Any, Any]
    note: Task[..., None, Any]
    fail: Task[[], None, Any]
    log_error: Task[[str], None, Any]
    error_handler: Task[..., None, Any]


@pytest.fixture
def tasks(app: TaskQ) -> Tasks:
    log: list[Any] = []

    @app.task(name="proj.tasks.add")
    async def add(x: int, y: int, debug: bool = False) -> int:  # noqa: FBT001, FBT002 - the guide's signature
        return x + y

    @app.task(name="proj.tasks.mul")
    def mul(x: int, y: int) -> int:
        return x * y

    @app.task(name="proj.tasks.xsum")
    def xsum(numbers: list[int]) -> int:
        return sum(numbers)

    @app.task(name="proj.tasks.echo")
    async def echo(*args: Any, **kwargs: Any) -> Any:
        return [list(args), kwargs]

    @app.task(name="proj.tasks.note")
    async def note(*args: Any) -> None:
        log.append(list(args))

    return Tasks(app, log, add, mul, xsum, echo, note, *failures(app, log))


def failures(app: TaskQ, log: list[Any]) -> Any:
    @app.task(name="proj.tasks.fail")
    async def fail() -> None:
        raise ValueError("something something")

    @app.task(name="proj.tasks.log_error")
    async def log_error(task_id: str) -> None:
        result = app.AsyncResult(task_id)
        await result.get(timeout=10, propagate=False)
        log.append(("old", task_id, repr(result.result)))

    @app.task(name="proj.tasks.error_handler")
    async def error_handler(request: Request, exc: Exception, traceback: str) -> None:
        log.append(("new", request.id, repr(exc), "Traceback" in (traceback or "")))

    return fail, log_error, error_handler


# == signatures


async def test_a_signature_by_name_and_its_fields(tasks: Tasks) -> None:
    by_name = signature("proj.tasks.add", args=(2, 2), countdown=10)
    assert repr(by_name) == "proj.tasks.add(2, 2)"
    assert by_name == tasks.add.signature((2, 2), countdown=10)
    assert tasks.add.s(2, 2) == tasks.add.signature((2, 2))
    s = tasks.add.signature((2, 2), {"debug": True}, countdown=10)
    assert (s.args, s.kwargs, s.options) == ((2, 2), {"debug": True}, {"countdown": 10})
    assert repr(s) == "proj.tasks.add(2, 2, debug=True)"
    assert maybe_signature(s.to_dict()) == s
    assert maybe_signature(None) is None


async def test_the_calling_api_of_signatures(tasks: Tasks) -> None:
    async with running(tasks.app):
        assert await tasks.add.s(2, 2)() == 4  # here and now
        assert tasks.mul.s(2, 3)() == 6
        assert await (await tasks.add.s(2, 2).delay()) == 4
        assert await (await tasks.add.s(2, 2).apply_async(countdown=0.05)) == 4
        assert await (await tasks.add.signature((2, 2), countdown=0.05).apply_async()) == 4
        assert await (await tasks.add.s(2, 2).set(countdown=0.05).delay()) == 4
        assert await (await signature("proj.tasks.add", (2, 2), app=tasks.app).delay()) == 4


async def test_partials(tasks: Tasks) -> None:
    async with running(tasks.app):
        partial = tasks.echo.s(2, own=1)
        assert await (await partial.delay(4)) == [[4, 2], {"own": 1}]
        assert await (await partial.apply_async((4,), {"own": 2, "new": 3})) == [[4, 2], {"own": 2, "new": 3}]
    s = tasks.add.signature((2, 2), countdown=10)
    assert s.clone(countdown=1).options == {"countdown": 1}
    assert repr(tasks.add.s(2).clone(args=(4,), kwargs={"debug": True})) == "proj.tasks.add(4, 2, debug=True)"


async def test_new_arguments_come_first_and_new_keywords_and_options_win(tasks: Tasks) -> None:
    async with running(tasks.app):

        @tasks.app.task
        def subtract(x: int, y: int) -> int:
            return x - y

        assert await (await subtract.s(10).delay(30)) == 20
        s = tasks.echo.s(2, 2)
        assert await (await s.delay(debug=True)) == [[2, 2], {"debug": True}]
        assert await (await s.apply_async(kwargs={"debug": True})) == [[2, 2], {"debug": True}]
        later = tasks.add.signature((2, 2), countdown=600)
        assert await (await later.apply_async(countdown=0.05)).get(timeout=10) == 4


async def test_the_prefix_operator_sends_and_waits(tasks: Tasks) -> None:
    @tasks.app.task
    def at_the_prompt() -> list[Any]:
        with pytest.raises(ValueError, match="something something"):
            ~tasks.fail.s()
        return [
            ~tasks.add.s(2, 2),
            ~group(tasks.add.s(i, i) for i in range(3)),
            ~tasks.xsum.map([list(range(10)), list(range(100))]),
        ]

    async with running(tasks.app):
        assert await (await at_the_prompt.delay()).get(timeout=10) == [4, [0, 2, 4], [45, 4950]]
        with pytest.raises(RuntimeError, match="await"):
            ~tasks.add.s(2, 2)  # it would stop the loop


async def test_immutable_signatures_take_no_arguments(tasks: Tasks) -> None:
    async with running(tasks.app):
        await tasks.add.apply_async((2, 2), link=tasks.note.signature(immutable=True))
        await tasks.add.apply_async((2, 2), link=tasks.note.si())
        await eventually(lambda: tasks.log == [[], []])
        assert await (await tasks.echo.si(1).delay(2)) == [[1], {}]


async def test_callbacks(tasks: Tasks) -> None:
    async with running(tasks.app):
        result = await tasks.add.apply_async((2, 2), link=tasks.add.s(8))
        assert await result.get(timeout=10) == 4
        assert await result.children[0].get(timeout=10) == 12


# == primitives


async def test_simple_chain(tasks: Tasks) -> None:
    add = tasks.add
    async with running(tasks.app):
        assert await (await chain(add.s(2, 2), add.s(4), add.s(8))()) == 16
        assert await (await (add.s(2, 2) | add.s(4) | add.s(8))()) == 16


async def test_immutable_chain_and_its_parents(tasks: Tasks) -> None:
    add = tasks.add
    async with running(tasks.app):
        res: Any = await (add.si(2, 2) | add.si(4, 4) | add.si(8, 8))()
        assert await res.get(timeout=10) == 16
        assert await res.parent.get(timeout=10) == 8
        assert await res.parent.parent.get(timeout=10) == 4


async def test_simple_group(tasks: Tasks) -> None:
    async with running(tasks.app):
        res = await group(tasks.add.s(i, i) for i in range(10))()
        assert await res.get(timeout=10) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]


async def test_simple_chord(tasks: Tasks) -> None:
    async with running(tasks.app):
        res = await chord((tasks.add.s(i, i) for i in range(10)), tasks.xsum.s())()
        assert await res.get(timeout=10) == 90


async def test_chord_with_an_immutable_body(tasks: Tasks) -> None:
    async with running(tasks.app):
        res = await chord((tasks.add.s(c, c) for c in range(3)), tasks.echo.si("import")).apply_async()
        assert await res.get(timeout=10) == [["import"], {}]


async def test_partial_chains(tasks: Tasks) -> None:
    c1 = tasks.add.s(4) | tasks.mul.s(8)
    c2 = tasks.add.s(4, 16) | tasks.mul.s(2) | (tasks.add.s(4) | tasks.mul.s(8))
    async with running(tasks.app):
        assert await (await c1(16)).get(timeout=10) == 160
        assert await (await c2()).get(timeout=10) == 352


async def test_a_group_and_a_task_become_a_chord(tasks: Tasks) -> None:
    c3 = group(tasks.add.s(i, i) for i in range(10)) | tasks.xsum.s()
    assert isinstance(c3, chord)
    async with running(tasks.app):
        assert await (await c3()).get(timeout=10) == 90


async def test_a_new_user(tasks: Tasks) -> None:
    new_user = tasks.echo.s() | group(tasks.echo.s("contacts"), tasks.echo.s("welcome"))
    async with running(tasks.app):
        res: Any = await new_user.delay(username="artv", first="Art")
        user = [[], {"username": "artv", "first": "Art"}]
        assert await res.get(timeout=10) == [[[user, "contacts"], {}], [[user, "welcome"], {}]]


async def test_a_group_of_immutables_at_the_end_of_a_chain(tasks: Tasks) -> None:
    async with running(tasks.app):
        res: Any = await (tasks.add.s(4, 4) | group(tasks.add.si(i, i) for i in range(10)))()
        assert repr(res).startswith("<GroupResult")
        assert await res.get(timeout=10) == list(range(0, 20, 2))
        assert await res.parent.get(timeout=10) == 8


# == chains


async def test_link_children_and_collect(tasks: Tasks) -> None:
    async with running(tasks.app):
        res = await tasks.add.apply_async((2, 2), link=tasks.mul.s(16))
        assert await res.get(timeout=10) == 4
        assert await res.children[0].get(timeout=10) == 64
        assert [value async for _, value in res.collect()] == [4, 64]
        assert await res.get_leaf() == 64


async def test_a_tree_that_is_not_complete(tasks: Tasks) -> None:
    res = await tasks.add.apply_async((2, 2), link=tasks.mul.s(16))
    with pytest.raises(IncompleteStream, match="is PENDING"):
        [value async for _, value in res.collect()]
    assert [(found.id, value) async for found, value in res.collect(intermediate=True)] == [(res.id, None)]


async def test_many_links(tasks: Tasks) -> None:
    s = tasks.add.s(2, 2).link(tasks.note.s("first")).link(tasks.note.s("second"))
    async with running(tasks.app):
        await s.delay()
        await eventually(lambda: sorted(tasks.log) == [[4, "first"], [4, "second"]])


async def test_error_callbacks(tasks: Tasks) -> None:
    async with running(tasks.app):
        by_option = await tasks.fail.apply_async(link_error=tasks.log_error.s())
        by_signature = await tasks.fail.signature(link_error=tasks.error_handler.s()).delay()
        await eventually(lambda: len(tasks.log) == 2)
    told = "ValueError('something something')"
    assert sorted(tasks.log) == sorted([("old", by_option.id, told), ("new", by_signature.id, told, True)])


async def test_on_error_in_a_chain(tasks: Tasks) -> None:
    async with running(tasks.app):
        res: Any = await (tasks.fail.si() | tasks.add.si(2, 2)).on_error(tasks.error_handler.s()).delay()
        with pytest.raises(ValueError, match="something something"):
            await res.get(timeout=10)
        await eventually(lambda: len(tasks.log) == 1)
        assert tasks.log[0][1] == res.parent.id


async def test_results_of_a_chain(tasks: Tasks) -> None:
    flow = chain(tasks.add.s(4, 4), tasks.mul.s(8), tasks.mul.s(10))
    assert repr(flow) == "proj.tasks.add(4, 4) | proj.tasks.mul(8) | proj.tasks.mul(10)"
    async with running(tasks.app):
        res: Any = await flow()
        assert await res.get(timeout=10) == 640
        assert await res.parent.get(timeout=10) == 64
        assert await res.parent.parent.get(timeout=10) == 8


async def test_graphs(tasks: Tasks) -> None:
    async with running(tasks.app):
        res: Any = await chain(tasks.add.s(4, 4), tasks.mul.s(8), tasks.mul.s(10))()
        await res.get(timeout=10)
        first = res.parent.parent
        graph = await first.graph()
    assert str(graph).splitlines() == [
        f"{first.id}  SUCCESS  8",
        f"└─ {res.parent.id}  SUCCESS  64",
        f"   └─ {res.id}  SUCCESS  640",
    ]
    file = io.StringIO()
    graph.to_dot(file)
    assert f'"{first.id}" -> "{res.parent.id}";' in file.getvalue()


# == groups


async def test_a_group_and_its_results(tasks: Tasks) -> None:
    job = group([tasks.add.s(n, n) for n in (2, 4, 8, 16, 32)])
    result = await job.apply_async()
    assert await result.waiting()
    assert not await result.ready()
    async with running(tasks.app):
        assert await result.join(timeout=10) == [4, 8, 16, 32, 64]
        assert await result.ready()
        assert await result.successful()
        assert not await result.failed()
        assert not await result.waiting()
        assert await result.completed_count() == 5
        ended = [one.result async for one in result.as_completed()]
        assert sorted(ended) == [4, 8, 16, 32, 64]


async def test_a_group_is_revoked(tasks: Tasks) -> None:
    result: Any = await group(tasks.note.s(n) for n in range(3))()
    await result.revoke()
    async with running(tasks.app):
        for member in result:
            await member.get(timeout=10, propagate=False)
            assert member.state == "REVOKED"
    assert tasks.log == []


async def test_group_callbacks_and_error_handling(tasks: Tasks) -> None:
    linked = group(tasks.add.s(2, 2), tasks.add.s(4, 4)).link(tasks.note.s("done"))
    failing = group(tasks.fail.si(), tasks.fail.si()).link_error(tasks.error_handler.s())
    async with running(tasks.app):
        assert await (await linked()).get(timeout=10) == [4, 8]
        await eventually(lambda: tasks.log == [["done"]])  # once, for the first member, without its value
        tasks.log.clear()
        result = await failing()
        with pytest.raises(ValueError, match="something something"):
            await result.get(timeout=10)
        await eventually(lambda: len(tasks.log) == 2)  # for each member
        assert {line[1] for line in tasks.log} == {member.id for member in result.leaves()}


async def test_a_callback_of_a_group_does_not_get_its_values(tasks: Tasks) -> None:
    """The guide's faulty example: what is linked lacks its arguments and fails in the background."""
    linked = group(tasks.add.s(2, 2), tasks.add.s(4, 4)).link(tasks.app.signature("proj.tasks.needs_two"))

    @tasks.app.task(name="proj.tasks.needs_two", typing=False)
    async def needs_two(x: int, y: int) -> None:
        """Never runs."""

    async with running(tasks.app):
        result = await linked()
        assert await result.get(timeout=10) == [4, 8]
        first = result.results[0]
        assert isinstance(first, AsyncResult)
        with pytest.raises(TypeError, match="missing 2 required positional arguments"):
            await first.children[0].get(timeout=10)


async def test_group_unrolling(tasks: Tasks) -> None:
    add = tasks.add
    unrolled = chain(add.s(2, 2), group(add.s(1)), add.s(1))
    assert repr(unrolled) == "proj.tasks.add(2, 2) | proj.tasks.add(1) | proj.tasks.add(1)"
    assert repr(chain(group(add.s(1, 1)), add.s(2))) == "proj.tasks.add(1, 1) | proj.tasks.add(2)"
    two = chain(add.s(2, 2), group(add.s(1), add.s(2)), tasks.xsum.s())
    assert isinstance(two.tasks[1], chord)
    async with running(tasks.app):
        assert await (await unrolled()).get(timeout=10) == 6
        assert await (await two()).get(timeout=10) == 11
        assert await (await (group(add.s(i, i) for i in range(1, 2)) | tasks.xsum.s())()).get(timeout=10) == 2


async def test_a_chain_has_the_id_of_its_last_task(tasks: Tasks) -> None:
    last = tasks.mul.s(8).set(task_id=str(uuid4()))
    async with running(tasks.app):
        result: Any = await (tasks.add.s(4, 4) | last)()
        assert result.id == last.options["task_id"]
        assert await result.get(timeout=10) == 64
        named: Any = await (tasks.add.s(4, 4) | tasks.mul.s(8)).apply_async(task_id="mine-" + result.id)
        assert named.id == "mine-" + result.id
        assert await named.get(timeout=10) == 64


async def test_saved_groups(tasks: Tasks, place: Place) -> None:
    async with running(tasks.app):
        result = await group(tasks.add.s(i, i) for i in range(3))()
        if place.backend == "rpc://":
            with pytest.raises(StoreError, match="keeps no groups"):
                await result.save()
            return
        await result.save()
        async with place.app() as elsewhere:
            restored = await GroupResult.restore(result.id, elsewhere)
            assert restored == result
            assert restored is not None
            assert await restored.get(timeout=10) == [0, 2, 4]
            await restored.delete()
            assert await elsewhere.GroupResult(result.id) is None


async def test_result_sets(tasks: Tasks) -> None:
    async with running(tasks.app):
        one, two = await tasks.add.delay(1, 1), await tasks.add.delay(2, 2)
        results = ResultSet([one])
        results.add(two)
        results.add(one)
        assert len(results) == 2
        assert await results.get(timeout=10) == [2, 4]
        results.remove(one)
        with pytest.raises(KeyError):
            results.remove(one)
        assert [result.id for result in results] == [two.id]


# == chords


async def test_a_chord_in_parts(tasks: Tasks) -> None:
    callback = tasks.xsum.s()
    header = [tasks.add.s(i, i) for i in range(100)]
    async with running(tasks.app):
        result = await chord(header)(callback)
        assert await result.get(timeout=10) == 9900


async def test_a_chord_whose_part_fails(tasks: Tasks) -> None:
    body = tasks.xsum.s().on_error(tasks.error_handler.s())
    c = chord([tasks.add.s(4, 4), tasks.fail.si(), tasks.add.s(8, 8)], body)
    async with running(tasks.app):
        result: Any = await c()
        with pytest.raises(ChordError, match=r"Dependency .* raised ValueError\('something something'\)"):
            await result.get(timeout=10)
        header = result.parent
        assert isinstance(header, GroupResult)
        assert await header.results[2].get(timeout=10) == 16  # the others run all the same
        [(kind, task_id, told, _)] = await eventually(lambda: list(tasks.log))
        assert (kind, task_id) == ("new", result.id)
        assert header.results[1].id in told


async def test_errbacks_of_one_argument_and_bound_ones_get_the_id_of_the_body(tasks: Tasks) -> None:
    @tasks.app.task(bind=True)
    async def bound(self: Task[Any, Any, Any], task_id: str, exc: Any = None, traceback: Any = None) -> None:
        tasks.log.append(("bound", task_id, exc))

    body = tasks.xsum.s().on_error(tasks.log_error.s()).on_error(bound.s())
    async with running(tasks.app):
        result = await chord([tasks.add.s(4, 4), tasks.fail.si()], body)()
        with pytest.raises(ChordError):
            await result.get(timeout=10)
        await eventually(lambda: len(tasks.log) == 2)
    assert sorted(line[:2] for line in tasks.log) == [("bound", result.id), ("old", result.id)]


async def test_on_error_of_a_chord(tasks: Tasks) -> None:
    c = (group(tasks.add.s(i, i) for i in range(3)) | tasks.fail.si()).on_error(tasks.error_handler.s())
    async with running(tasks.app):
        result = await c.delay()
        with pytest.raises(ValueError, match="something something"):
            await result.get(timeout=10)
        await eventually(lambda: [line[1] for line in tasks.log] == [result.id])


# == map, starmap, chunks


async def test_map_and_starmap(tasks: Tasks) -> None:
    async with running(tasks.app):
        assert await (await tasks.xsum.map([list(range(10)), list(range(100))]).delay()) == [45, 4950]
        assert await (await tasks.add.starmap(zip(range(10), range(10), strict=True)).delay()) == list(
            range(0, 20, 2)
        )
        assert await (await xmap(tasks.xsum.s(), [[1, 2], [3]]).delay()) == [3, 3]
        later = xstarmap(tasks.add.s(), [(1, 2)])
        assert await (await later.apply_async(countdown=0.05)) == [3]


async def test_chunks(tasks: Tasks) -> None:
    hundred = [(i, i) for i in range(100)]
    wanted = [[2 * i for i in range(start, start + 10)] for start in range(0, 100, 10)]
    async with running(tasks.app):
        assert await (await tasks.add.chunks(hundred, 10)()).get(timeout=10) == wanted
        assert await (await chunks(tasks.add.s(), hundred, 10).apply_async()).get(timeout=10) == wanted
        skewed = tasks.add.chunks(hundred, 50).group().skew(start=0.01, stop=0.03, step=0.01)
        assert [task.options["countdown"] for task in skewed.tasks] == [0.01, 0.02]
        assert len(await (await skewed()).get(timeout=10)) == 2


async def test_skew_without_an_end(tasks: Tasks) -> None:
    skewed = group(tasks.add.s(i, i) for i in range(4)).skew(start=1, step=2)
    assert [task.options["countdown"] for task in skewed.tasks] == [1, 3, 5, 7]
    again = group(tasks.add.s(i, i) for i in range(4)).skew(start=1, stop=3)
    assert [task.options["countdown"] for task in again.tasks] == [1, 2, 1, 2]


# == stamping


class MonitoringId(StampingVisitor):
    def on_signature(self, sig: Signature[Any], **headers: Any) -> Mapping[str, Any]:
        return {"monitoring_id": uuid4().hex}


class InGroup(StampingVisitor):
    def __init__(self) -> None:
        self.in_group = False

    def on_group_start(self, group: group[Any], **headers: Any) -> Mapping[str, Any]:
        self.in_group = True
        return {"in_group": [self.in_group], "stamped_headers": ["in_group"]}

    def on_group_end(self, group: group[Any], **headers: Any) -> None:
        self.in_group = False

    def on_chain_start(self, chain: chain[Any], **headers: Any) -> Mapping[str, Any]:
        return {"in_group": [self.in_group], "stamped_headers": ["in_group"]}

    def on_signature(self, sig: Signature[Any], **headers: Any) -> Mapping[str, Any]:
        return {"in_group": [self.in_group], "stamped_headers": ["in_group"]}


class LinkStamps(StampingVisitor):
    def on_callback(self, callback: Signature[Any], **headers: Any) -> Mapping[str, Any]:
        return {"on_callback": True}

    def on_errback(self, errback: Signature[Any], **headers: Any) -> Mapping[str, Any]:
        return {"on_errback": True}


@pytest.fixture
def seen(tasks: Tasks) -> dict[str, Any]:
    """Stamps that reached the worker, by the task's first argument."""
    found: dict[str, Any] = {}

    @tasks.app.task(name="proj.tasks.stamped", bind=True)
    async def stamped(self: Task[Any, Any, Any], *args: Any) -> Any:
        found[str(args[-1])] = dict(self.request.stamps)
        assert sorted(self.request.stamped_headers or ()) == sorted(self.request.stamps)
        return args[-1]

    return found


def stamped(app: TaskQ, *args: Any) -> Signature[Any]:
    return app.signature("proj.tasks.stamped", args)


async def test_a_custom_stamp_reaches_every_task(tasks: Tasks, seen: dict[str, Any]) -> None:
    app = tasks.app
    flow = chord([stamped(app, "a"), stamped(app, "b") | stamped(app, "c")], stamped(app, "body"))
    flow = flow.link(stamped(app, "callback")).stamp(stamp="your_custom_stamp")
    async with running(app):
        await (await flow()).get(timeout=10)
        await eventually(lambda: len(seen) == 5)
    assert sorted(seen) == ["a", "b", "body", "c", "callback"]
    assert all(stamps == {"stamp": "your_custom_stamp"} for stamps in seen.values())


async def test_stamps_are_kept_with_extended_results(place: Place) -> None:
    async with place.app(result_extended=True) as app:

        @app.task
        async def add(x: int, y: int) -> int:
            return x + y

        async with running(app):
            result = await group(add.si(2, 2), add.si(3, 3)).stamp(stamp="your_custom_stamp")()
            assert await result.get(timeout=10) == [4, 6]
            for member in result.leaves():
                assert member.seen is not None
                assert (member.seen.extra or {})["stamp"] == "your_custom_stamp"


def test_the_stamps_of_a_chord_and_its_links(tasks: Tasks) -> None:
    class Custom(LinkStamps):
        def on_signature(self, sig: Signature[Any], **headers: Any) -> Mapping[str, Any]:
            return {"header": "value"}

    c = chord([tasks.add.s(1, 1), tasks.add.s(2, 2)], tasks.xsum.s())
    c = c.link(signature("sig_link")).link_error(signature("sig_link_error")).stamp(Custom())
    stamped = {"header": "value", "stamped_headers": ["header"]}
    assert [task.options for task in c.header.tasks] == [stamped, stamped]
    body = c.settled().body
    assert body is not None
    link, errback = body.options.pop("link")[0], body.options.pop("link_error")[0]
    assert body.options == stamped
    assert link.options == {
        "header": "value",
        "on_callback": True,
        "stamped_headers": ["header", "on_callback"],
    }
    assert errback.options == {
        "header": "value",
        "on_errback": True,
        "stamped_headers": ["header", "on_errback"],
    }


async def test_monitoring_ids(tasks: Tasks, seen: dict[str, Any]) -> None:
    app = tasks.app
    async with running(app):
        flow = group(stamped(app, "a"), stamped(app, "b"))
        await (await flow.stamp(MonitoringId())()).get(timeout=10)
    ids = [stamps["monitoring_id"] for stamps in seen.values()]
    assert len(set(ids)) == 2


async def test_a_visitor_tells_who_is_in_a_group(tasks: Tasks, seen: dict[str, Any]) -> None:
    app = tasks.app
    flow = chain(stamped(app, "first"), group(stamped(app, "a"), stamped(app, "b")))
    async with running(app):
        await (await flow.stamp(InGroup())()).get(timeout=10)
    assert {name: stamps["in_group"] for name, stamps in seen.items()} == {
        "first": [False],
        "a": [True],
        "b": [True],
    }


async def test_stamps_of_callbacks_and_errbacks(tasks: Tasks, seen: dict[str, Any]) -> None:
    app = tasks.app
    good = stamped(app, "task").link(stamped(app, "callback"))
    bad = tasks.fail.si().link_error(app.signature("proj.tasks.stamped", ("errback",)))
    async with running(app):
        await good.stamp(LinkStamps(), tenant="acme").delay()
        await bad.stamp(LinkStamps()).delay()
        await eventually(lambda: len(seen) == 3)
    assert seen == {
        "task": {"tenant": "acme"},
        "callback": {"tenant": "acme", "on_callback": True},
        "errback": {"on_errback": True},
    }


# == workflows that change while they run


async def test_add_to_chord(tasks: Tasks) -> None:
    app = tasks.app

    @app.task(bind=True)
    async def spread(self: Task[Any, Any, Any], n: int) -> int:
        for i in range(n):
            await self.add_to_chord(tasks.add.s(i, 100))
        return n

    @app.task(bind=True)
    def spread_plainly(self: Task[Any, Any, Any], n: int) -> int:
        self.sync.add_to_chord(tasks.add.s(n, 200))
        return n

    async with running(app):
        result = await chord([spread.s(2), spread_plainly.s(3), tasks.add.s(1, 1)], tasks.echo.s())()
        [[values], _] = await result.get(timeout=10)
    assert values[:3] == [2, 3, 2]
    assert sorted(values[3:]) == [100, 101, 203]


async def test_add_to_chord_outside_of_one(tasks: Tasks) -> None:
    @tasks.app.task(bind=True)
    async def alone(self: Task[Any, Any, Any]) -> None:
        await self.add_to_chord(tasks.add.s(1, 1))

    async with running(tasks.app):
        with pytest.raises(ValueError, match="is not a member of a chord"):
            await (await alone.delay()).get(timeout=10)


async def test_replace_in_workflows(tasks: Tasks) -> None:
    app = tasks.app

    @app.task(bind=True)
    async def sum_up_to(self: Task[Any, Any, Any], n: int) -> int:
        raise self.replace(group(tasks.add.s(i, 0) for i in range(n)) | tasks.xsum.s())

    @app.task(bind=True)
    async def each(self: Task[Any, Any, Any], n: int) -> int:
        raise self.replace(tasks.add.s(1, 1) | group(tasks.add.s(i) for i in range(n)))

    async with running(app):
        assert await (await sum_up_to.delay(5)).get(timeout=10) == 10
        listed: Any = await (await each.delay(2)).get(timeout=10)
        assert listed == [2, 3]
        assert await (await (sum_up_to.s(5) | tasks.add.s(1)).delay()).get(timeout=10) == 11
        nested = chord([each.s(2) | tasks.xsum.s(), sum_up_to.s(3)], tasks.xsum.s())
        assert await (await nested()).get(timeout=10) == 8


async def test_retries_in_workflows(tasks: Tasks) -> None:
    app = tasks.app

    @app.task(bind=True)
    async def third_time(self: Task[Any, Any, Any], x: int) -> int:
        if self.request.retries < 2:
            raise self.retry(countdown=0.05)
        return x + self.request.retries

    async with running(app):
        flow = chord([third_time.s(10), third_time.s(20) | tasks.add.s(1)], tasks.xsum.s()) | third_time.s()
        assert await (await flow()).get(timeout=20) == 12 + 23 + 2


async def test_groups_and_chords_from_async_generators(tasks: Tasks) -> None:
    async def members(n: int) -> Any:
        for i in range(n):
            yield tasks.add.s(i, i)

    async with running(tasks.app):
        assert await (await group(members(250), app=tasks.app)()).get(timeout=20) == list(range(0, 500, 2))
        assert await (await chord(members(250), tasks.xsum.s())()).get(timeout=20) == 250 * 249
        assert await (await chord(members(0), tasks.xsum.s())()).get(timeout=20) == 0


async def test_blocking_twins(tasks: Tasks) -> None:
    @tasks.app.task
    def outer() -> list[Any]:
        flow = chord([tasks.add.s(1, 1), tasks.add.s(2, 2)], tasks.xsum.s())
        many = group(tasks.add.s(i, i) for i in range(3)).sync.apply_async()
        return [flow.sync.delay().get(timeout=10), many.get(timeout=10), len(many), many.completed_count()]

    async with running(tasks.app):
        assert await (await outer.delay()).get(timeout=20) == [6, [0, 2, 4], 3, 3]
