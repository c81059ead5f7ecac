"""Messages grow with the number of steps, and not faster."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from taskq import Signature, TaskQ, chain, chord, group
from tests.harness import running

app = TaskQ("sizes", broker="memory://sizes")


def step(n: int) -> Signature[Any]:
    return app.signature("step", (n,))


FLOWS: dict[str, Callable[[int], Signature[Any]]] = {
    "chain": lambda n: chain(*map(step, range(n))),
    "chain with errbacks": lambda n: chain(*map(step, range(n))).link_error(step(0)),
    "chain of groups": lambda n: chain(
        step(0), *(part for i in range(n) for part in (group(step(i), step(i)), step(i)))
    ),
    "chain of chords": lambda n: chain(
        step(0), *(chord([step(i), step(i)], step(i) | step(i)) for i in range(n))
    ),
    "body that is a chain": lambda n: chord([step(1), step(2)], chain(*map(step, range(n)))),
    "chain in a header": lambda n: chord([chain(*map(step, range(n))), step(1)], step(2)),
    "stamped chain": lambda n: chain(*map(step, range(n))).stamp(tenant="acme"),
}


def size(made: Signature[Any]) -> int:
    """The largest message that is sent first."""
    return max(len(message.body) + len(str(message.headers)) for message in app.prepare(made).messages)


@pytest.mark.parametrize("flow", FLOWS)
def test_the_first_message_grows_in_proportion(flow: str) -> None:
    few, more, many = (size(FLOWS[flow](n)) for n in (50, 100, 200))
    assert many - more < 2.2 * (more - few)


def test_a_header_of_any_size_has_messages_of_one_size() -> None:
    sizes = [size(chord(map(step, range(n)), step(0))) for n in (50, 100, 200)]
    assert max(sizes) - min(sizes) < 10


async def test_a_line_longer_than_the_stack_is_deep() -> None:
    """Python's limit is 1000 calls, and JSON nests 254 levels: neither bounds a chain."""
    url = "memory://deep"
    deep = TaskQ("deep", broker=url, backend=url)

    @deep.task
    async def count(x: int) -> int:
        return x + 1

    @deep.task
    async def send(n: int) -> str:
        sent: Any = await chain(count.si(0), *(count.s() for _ in range(n))).apply_async()
        return str(sent.id)

    async with deep:
        handle: Any = deep.prepare(chain(count.si(0), *(count.s() for _ in range(1100)))).result
        lineage = 0
        while (handle := handle.parent) is not None:
            lineage += 1
        assert lineage == 1100
        async with running(deep):
            short: Any = await chain(count.si(0), *(count.s() for _ in range(150))).apply_async()
            assert await short.get(timeout=30) == 151
            graph = await short.graph()
            assert len(graph.nodes) == 151
            sender = await send.delay(150)
            last = await sender.get(timeout=30)
            assert await deep.AsyncResult(last).get(timeout=30) == 151
            [child] = sender.children
            assert child.id == last


def test_a_step_that_came_by_the_wire_goes_on_as_it_is() -> None:
    came: Any = {"task": "t", "args": [], "kwargs": {}, "options": {"queue": None}, "new key": 1}
    [message] = app.prepare(step(1).replaced(options={"chain": [came, step(2)]})).messages
    chained = json.loads(message.body)[2]["chain"]
    assert chained == [came, step(2).to_dict()]
