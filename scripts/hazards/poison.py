"""Entries no worker can run, made from a good one: put straight into the list of a queue."""

import base64
import json
import pickle
import zlib
from collections.abc import Callable, Iterator
from typing import Any

Change = Callable[[dict[str, Any]], None]


def _body(value: bytes, **more: Any) -> Change:
    def change(envelope: dict[str, Any]) -> None:
        envelope["body"] = base64.b64encode(value).decode()
        envelope.update(more)

    return change


def _header(name: str, value: Any) -> Change:
    return lambda envelope: envelope["headers"].update({name: value})


def _without(*path: str) -> Change:
    def change(envelope: dict[str, Any]) -> None:
        for part in path[:-1]:
            envelope = envelope[part]
        del envelope[path[-1]]

    return change


def _compressed(envelope: dict[str, Any]) -> None:
    _body(zlib.compress(b"[" + b" " * 300_000_000 + b"]"))(envelope)
    envelope["headers"]["compression"] = "application/x-gzip"


RAW = (b"not json", b"", b"null", b"[]", b"{}", b"\xff\xfe\x00", b"[" * 100_000, b'{"headers": 1}')
CHANGES: tuple[Change, ...] = (
    _body(b"null"),
    _body(b""),
    _body(b'"hello"'),
    _body(b"[[1],{}]"),
    _body(b"[" * 100_000),
    _body(pickle.dumps(([1], {}, {})), **{"content-type": "application/x-python-serialize"}),
    _body(b"x", **{"content-type": "application/x-unknown"}),
    _compressed,
    _header("task", "jobs.unknown"),
    _header("task", None),
    _header("timelimit", "soon"),
    _header("eta", "tomorrow"),
    _header("expires", {"a": 1}),
    _header("retries", "many"),
    _header("compression", "application/x-snow"),
    _header("x", {"__type__": "nothing", "__value__": 1}),
    _without("headers", "id"),
    _without("headers"),
    _without("properties", "delivery_tag"),
    _without("properties", "delivery_info"),
)


def entries(good: bytes) -> list[bytes]:
    """All of them, as they lie in a list of Redis."""
    return [*RAW, *(json.dumps(envelope).encode() for envelope in changed(good))]


def changed(good: bytes) -> Iterator[dict[str, Any]]:
    """Those made by changes of a good one."""
    for number, change in enumerate(CHANGES):
        envelope = json.loads(good)
        envelope["headers"]["id"] = envelope["properties"]["correlation_id"] = f"poison-{number}"
        envelope["properties"]["delivery_tag"] = f"poison-{number}"
        change(envelope)
        yield envelope
