"""Messages grow with the number of steps, and not faster."""

from collections.abc import Callable
from typing import Any

import pytest

from taskq import Signature, TaskQ, chain, chord, group

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
