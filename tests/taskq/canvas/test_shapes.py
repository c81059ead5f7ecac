"""Canvases as values: how they are built, read and refused, without a worker."""

from typing import Any

import pytest

from taskq import (
    ConfigError,
    ResultSet,
    Signature,
    StampingVisitor,
    TaskQ,
    chain,
    chord,
    group,
    signature,
)
from taskq.errors import DecodeError
from taskq.results.tree import workflow_graph
from taskq.seams.store import TaskResult

app = TaskQ("canvas", broker="memory://canvas", backend="memory://canvas")


def t(name: str, *args: Any, **options: Any) -> Signature[Any]:
    return app.signature(name, args, **options)


def test_what_is_left_out_and_what_is_taken_over() -> None:
    assert repr(group(chain(), t("a"), group())) == "group(a())"
    assert repr(chain(chain(), t("a"), group())) == "a()"
    assert len(chain(t("a"), t("b"))) == 2
    made = t("a")
    assert signature(made) is made
    assert signature(made.to_dict()) == made


def test_options_of_a_chain_inside_another_are_those_of_its_first_step() -> None:
    inner = chain(t("b"), t("c", queue="own")).set(queue="slow", countdown=3)
    outer = chain(t("a"), inner)
    assert [step.options for step in outer.tasks] == [{}, {"queue": "slow", "countdown": 3}, {"queue": "own"}]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (
            {"task": "celery.chord", "subtask_type": "chord", "kwargs": {"header": []}},
            "a chord without a body",
        ),
        ({"task": "celery.group", "subtask_type": "group", "kwargs": {}}, "a group without tasks"),
        ({"task": "celery.chain", "subtask_type": "chain"}, "a chain without tasks"),
        ({"args": []}, "not a signature"),
        (17, "not a signature"),
    ],
)
def test_what_is_no_signature(data: Any, problem: str) -> None:
    with pytest.raises(DecodeError, match=problem):
        app.signature(data)


def test_a_chord_without_a_body_waits_for_one() -> None:
    header: chord[Any] = chord([t("a"), t("b")])
    assert header.settled() is header
    marked = header.stamp(tenant="acme")
    assert [task.options["tenant"] for task in marked.header.tasks] == ["acme", "acme"]
    with pytest.raises(ConfigError, match="a chord without a body cannot be sent"):
        app.prepare(header)
    body = (header | t("c")).to_dict()["kwargs"]["body"]
    assert body["task"] == "c"


def test_a_chord_among_the_options_goes_in_its_wire_form() -> None:
    made = t("a").replaced(options={"chord": t("body")})
    assert made.to_dict()["options"] == {"chord": t("body").to_dict()}


def test_a_member_whose_body_is_a_group_is_one_part() -> None:
    inner = chord([t("a")], group(t("b"), t("c"))).link(t("told"))
    prepared = app.prepare(chord([inner, t("d")], t("body")))
    outer, *_ = (message for message in prepared.messages if message.headers["task"] == "d")
    assert prepared.chords[outer.headers["group"]] == 2


def test_a_visitor_without_methods_stamps_nothing() -> None:
    made = t("a").link(t("b")).link_error(t("c")).stamp(StampingVisitor())
    assert [made.options["stamped_headers"], made.options["link_error"][0].options] == [
        [],
        {"stamped_headers": []},
    ]


async def test_sets_of_results() -> None:
    async with app:
        one, two = app.AsyncResult("1"), app.AsyncResult("2")
        results = ResultSet([one, two])
        results.discard(one)
        results.discard(one)
        assert list(results) == [two]
        results.clear()
        await results.refresh()
        await results.forget()
        await results.revoke()
        assert await results.get() == []
        assert await results.ready()


async def test_a_graph_by_records_that_do_not_tell_of_each_other() -> None:
    """What a Celery worker has sent at the end of a chord is known by the parent of the body alone."""
    async with app:
        store = await app.open_store()
        await store.save(
            [
                TaskResult("part", "SUCCESS", 1, children=[]),
                TaskResult("body", "SUCCESS", 2, parent_id="part", children=[[["next", None], None]]),
                TaskResult("next", "SUCCESS", 3, parent_id="body"),
                TaskResult("lone", "SUCCESS", 4, parent_id="forgotten"),
                TaskResult("own", "SUCCESS", 5, parent_id="own"),
            ]
        )
        drawn = {
            name: (await workflow_graph(app.AsyncResult(name), store)).to_text()
            for name in ("next", "lone", "own")
        }
    assert drawn == {
        "next": "part  SUCCESS  1\n└─ body  SUCCESS  2\n   └─ next  SUCCESS  3",
        "lone": "lone  SUCCESS  4",
        "own": "own  SUCCESS  5",
    }
