"""What no worker can run: the kinds of the tests, and what brokers carry beside them."""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from taskq.wire.message import Message
from tests.worker import poison

Change = Callable[[dict[str, Any]], None]


def _without(*path: str) -> Change:
    def change(envelope: dict[str, Any]) -> None:
        for part in path[:-1]:
            envelope = envelope[part]
        del envelope[path[-1]]

    return change


RAW = (b"not json", b"", b"null", b"[]", b"{}", b"\xff\xfe\x00", b"[" * 100_000, b'{"headers": 1}')
CHANGES: tuple[Change, ...] = (
    _without("headers"),
    _without("properties", "delivery_tag"),
    _without("properties", "delivery_info"),
)
#: Good tasks have numbers from here on: what has a lower one is a bad message that was run.
FIRST_GOOD = 1000


def kinds() -> list[Message]:
    """The 49 kinds of the tests, for the task of the trials."""
    found = poison.kinds()
    for message in found.values():
        if message.headers.get("task") == "proj.good":
            message.headers = {**message.headers, "task": "jobs.job"}
        message.body = message.body.replace(b"proj.good", b"jobs.job")
    return list(found.values())


def bare(bodies: Iterable[bytes]) -> list[Message]:
    """Messages without any header."""
    return [Message({}, body) for body in bodies]


def entries(good: bytes) -> list[bytes]:
    """What can lie in a list of Redis and is no message."""
    return [*RAW, *(json.dumps(envelope).encode() for envelope in changed(good))]


def changed(good: bytes) -> Iterator[dict[str, Any]]:
    """Those made by changes of a good one."""
    for number, change in enumerate(CHANGES):
        envelope = json.loads(good)
        envelope["headers"]["id"] = envelope["properties"]["correlation_id"] = f"poison-{number}"
        envelope["properties"]["delivery_tag"] = f"poison-{number}"
        change(envelope)
        yield envelope
