"""What follows one run is bounded before it is built."""

import json
import tracemalloc
from typing import Any

import pytest

from taskq import TaskQ, chord, group
from taskq.errors import ChordError, EncodeError
from taskq.run.followups import after_failure, after_success
from taskq.wire.message import Message
from taskq.wire.protocol import decode
from taskq.wire.request import Request
from tests.harness import Place, running


def small(**settings: Any) -> TaskQ:
    return TaskQ("budget", broker="memory://budget", backend="memory://budget", **settings)


def run_of(**embed: Any) -> Request:
    headers = {"id": "an-id", "task": "proj.good"}
    return decode(Message(headers, json.dumps([[], {}, embed]).encode()), ["json"])


def tasks(count: int) -> list[dict[str, Any]]:
    return [{"task": "a"}] * count


def canvas(kind: str, key: str, members: Any, **options: Any) -> dict[str, Any]:
    kwargs = {key: members, "body": {"task": "b"}} if kind == "chord" else {key: members}
    return {"task": f"celery.{kind}", "subtask_type": kind, "kwargs": kwargs, "options": options}


@pytest.mark.parametrize(
    "callbacks",
    [
        tasks(101),
        [canvas("group", "tasks", tasks(101))],
        [canvas("chord", "header", tasks(101))],
        [canvas("chain", "tasks", [canvas("group", "tasks", tasks(101)), {"task": "b"}])],
        [canvas("chain", "tasks", tasks(2))] * 101,
        [canvas("chain", "tasks", tasks(50), link_error=tasks(50))],
        [canvas("group", "tasks", tasks(50), link=tasks(50))],
    ],
)
def test_more_messages_than_a_run_may_send_are_refused(callbacks: list[dict[str, Any]]) -> None:
    with pytest.raises(EncodeError, match="max_sent_messages"):
        after_success(small(max_sent_messages=100), run_of(callbacks=callbacks), 1)


def test_as_many_as_it_may_are_sent() -> None:
    app, request = small(max_sent_messages=100), run_of(callbacks=tasks(99), chain=tasks(1))
    assert len(after_success(app, request, 1).messages) == 100
    with pytest.raises(EncodeError):
        app.prepare(app.signature("a"), "", request)


def test_bytes_count_too_and_what_is_refused_uses_up_nothing() -> None:
    app, request = small(max_sent_bytes=100_000), run_of(callbacks=tasks(20), errbacks=tasks(2))
    with pytest.raises(EncodeError, match="max_sent_bytes"):
        after_success(app, request, "x" * 10_000)
    errbacks = after_failure(app, request, ValueError(), None)
    assert errbacks.problems == []
    assert len(errbacks.follow.messages) == 2


def test_what_is_refused_is_not_built() -> None:
    """4,000 steps with 4,000 errbacks each are 16 million signatures: 5 GB from 150 kB."""
    request = run_of(callbacks=[canvas("chain", "tasks", tasks(4000), link_error=tasks(4000))])
    tracemalloc.start()
    try:
        with pytest.raises(EncodeError):
            after_success(small(), request, 1)
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()


async def test_such_a_run_fails_and_its_caller_learns_why(place_memory: Place) -> None:
    app = place_memory.app(max_sent_messages=10)

    @app.task
    async def good() -> int:
        return 1

    @app.task
    async def body(values: list[int]) -> int:
        return sum(values)

    async with app, running(app):
        with pytest.raises(EncodeError, match="max_sent_messages"):
            await (await good.apply_async(link=[good.si()] * 11)).get(timeout=10)
        header = [good.si(), good.si()]

        with pytest.raises(ChordError, match="max_sent_messages"):
            await (await chord(header, group(good.si() for _ in range(11))).apply_async()).get(timeout=10)
