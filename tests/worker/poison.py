"""Messages that no worker can run: 49 kinds, and random mutations of good ones."""

import bz2
import gzip
import json
import pickle
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from taskq.wire.message import Message
from taskq.wire.protocol import Call, encode
from taskq.wire.serializers import get_serializer


class Code:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return exec, ("import pathlib; pathlib.Path('poisoned').touch()",)


def good(number: int = 0) -> Message:
    """A message as a caller sends it."""
    return encode(Call("proj.good", f"good-{number}", (number,), {}, get_serializer("json")))


def bodies() -> dict[str, bytes]:
    """Bodies that are none."""
    deep = b"[" * 100_000 + b"]" * 100_000
    return {
        "empty": b"",
        "null": b"null",
        "a number": b"17",
        "text": b'"hello"',
        "true": b"true",
        "an empty array": b"[]",
        "two elements": b"[[1],{}]",
        "four elements": b"[[1],{},null,null]",
        "args is text": b'["abc",{},{}]',
        "args is a number": b"[1,{},{}]",
        "args is null": b"[null,{},{}]",
        "kwargs is an array": b"[[1],[],{}]",
        "kwargs is null": b"[[1],null,{}]",
        "embed is text": b'[[1],{},"x"]',
        "callbacks is text": b'[[1],{},{"callbacks":"x"}]',
        "callbacks of numbers": b'[[1],{},{"callbacks":[1]}]',
        "errbacks is an object": b'[[1],{},{"errbacks":{}}]',
        "a chain without names": b'[[1],{},{"chain":[{}]}]',
        "a chord that is an array": b'[[1],{},{"chord":[]}]',
        "cut off": b'[[1],{},{"callb',
        "two documents": b"[[1],{},{}][[1],{},{}]",
        "no JSON": b"<xml/>",
        "no UTF-8": b"\xff\xfe\x00[[1],{},{}]",
        "zero bytes": b"\x00" * 64,
        "nested too deeply": b"[" + deep + b",{},{}]",
        "larger than the limit": b'[["' + b"x" * 300_000 + b'"],{},{}]',
        "an old body without a task": b'{"id":"x","args":[],"kwargs":{}}',
        "an old body without an id": b'{"task":"proj.good","args":[],"kwargs":{}}',
    }


def headers() -> dict[str, dict[str, Any]]:
    """Headers that are wrong."""
    return {
        "no such task": {"task": "proj.nowhere"},
        "a task that is a number": {"task": 17},
        "an empty task": {"task": ""},
        "an id that is an array": {"id": ["a"]},
        "an empty id": {"id": ""},
        "an eta that is no time": {"eta": "tomorrow"},
        "an eta that is an object": {"eta": {}},
        "expires that is no time": {"expires": "31.12."},
        "retries below zero": {"retries": -1},
        "retries beyond counting": {"retries": 2**40},
        "a time limit that is text": {"timelimit": "soon"},
        "three time limits": {"timelimit": [1, 2, 3]},
        "a negative time limit": {"timelimit": [-1, None]},
        "a group that is an object": {"group": {}},
        "stamps that are text": {"stamps": "x"},
        "an unknown compression": {"compression": "application/x-nothing"},
    }


def others() -> dict[str, Message]:
    """Wrong in other ways; bombs, and code from the wire."""
    base, wire = good(), good().body
    bomb = json.dumps([["0" * 5_000_000], {}, {}]).encode()

    def with_body(body: bytes, compression: str) -> Message:
        return replace(base, body=body, headers={**base.headers, "compression": compression})

    return {
        "pickle": replace(base, body=pickle.dumps(Code()), content_type="application/x-python-serialize"),
        "an unknown content type": replace(base, content_type="application/x-unknown"),
        "a bomb of zlib": with_body(zlib.compress(bomb), "application/x-gzip"),
        "a bomb of bzip2": with_body(bz2.compress(bomb), "application/x-bz2"),
        "said to be compressed": with_body(wire, "application/x-gzip"),
    }


def kinds() -> dict[str, Message]:
    """All of them by name; each has an id of its own where it is not the id that is wrong."""
    base = good()
    found = {name: replace(base, body=body, headers=dict(base.headers)) for name, body in bodies().items()}
    found["an old body without a task"].headers.clear()
    found["an old body without an id"].headers.clear()
    found |= {name: replace(base, headers={**base.headers, **wrong}) for name, wrong in headers().items()}
    found |= others()
    for number, message in enumerate(found.values()):
        if message.headers.get("id") == base.headers["id"]:
            message.headers = {**message.headers, "id": f"poison-{number}"}
    return found


# --- what leads nowhere ------------------------------------------------------------------------------------------

#: Half of a surrogate pair: JSON can say it, UTF-8 cannot.
HALF = "\ud800"


_OPTIONS: list[dict[str, Any]] = [
    {"chord": 5},
    {"chain": 5},
    {"link_error": 5},
    {"task_id": 5},
    {"task_id": ["a"]},
    {"task_id": HALF},
    {"queue": {}},
    {"queue": HALF},
    {"exchange": HALF, "routing_key": "x"},
    {"countdown": "soon"},
    {"countdown": 1e300},
    {"expires": "x"},
    {"priority": "x"},
    {"priority": 10**30},
    {"headers": 5},
    {"serializer": "none"},
    {"serializer": []},
    {"compression": "none"},
    {"group_id": ["a"]},
    {"stamped_headers": 5},
    {"delivery_mode": 77},
    {"reply_to": {}},
]


def links() -> Iterator[Message]:
    """Messages that could run, with signatures that cannot be sent: each way of being linked, three ends of the run."""
    signatures: list[dict[str, Any]] = [
        {"options": 5},
        {"args": 5},
        {"kwargs": 5},
        {"subtask_type": "chord"},
        {"subtask_type": "chain", "kwargs": {"tasks": [5]}},
        {"subtask_type": "group", "kwargs": {"tasks": 7}},
        *({"options": option} for option in _OPTIONS),
    ]
    for number, wrong in enumerate(signatures):
        for kind in ("callbacks", "errbacks", "chain", "chord"):
            for task in ("proj.good", "proj.bad", "proj.nowhere"):
                message, signature = good(), {"task": "proj.good", **wrong}
                embed = {kind: signature if kind == "chord" else [signature]}
                message.body = json.dumps([[1], {}, embed]).encode()
                name = f"{kind}-{number}-{task}"
                message.headers |= {"id": name, "task": task, "group": f"group-{name}", "group_index": 0}
                yield message


def half_names() -> Iterator[Message]:
    """Names that a broker or store cannot write."""
    base = good()
    wrongs: list[dict[str, Any]] = [
        {"id": HALF},
        {"id": HALF, "task": "proj.nowhere"},
        {"task": HALF},
        {"group": HALF},
        {"root_id": HALF, "parent_id": HALF, "shadow": HALF, "own": HALF},
        {"stamps": {HALF: HALF}, "stamped_headers": [HALF]},
    ]
    for number, wrong in enumerate(wrongs):
        yield replace(base, headers={**base.headers, "id": f"half-{number}", **wrong}, correlation_id=HALF)


# --- mutations --------------------------------------------------------------------------------------------------

_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**63,
    1e308,
    "",
    "x",
    "\ud800",
    [],
    {},
    [[]],
    {"a": 1},
    "1" * 500,
)


def mutations(count: int, seed: int) -> Iterator[Message]:
    """Good messages with a few changes each, in bytes and in structure; the same for the same seed."""
    rng = random.Random(seed)
    for number in range(count):
        message = good(number)
        message.headers = {**message.headers, "id": f"mutant-{number}"}
        for _ in range(rng.randint(1, 3)):
            rng.choice((_flip, _cut, _header, _no_header, _structure, _property))(message, rng)
        yield message


def _flip(message: Message, rng: random.Random) -> None:
    body = bytearray(message.body or b"x")
    for _ in range(rng.randint(1, 8)):
        body[rng.randrange(len(body))] = rng.randrange(256)
    message.body = bytes(body)


def _cut(message: Message, rng: random.Random) -> None:
    start = rng.randrange(len(message.body) + 1)
    message.body = (
        message.body[:start]
        + rng.randbytes(rng.randrange(4))
        + message.body[rng.randrange(start, len(message.body) + 1) :]
    )


def _header(message: Message, rng: random.Random) -> None:
    message.headers[rng.choice((*message.headers, "compression", "x-death", "x"))] = rng.choice(_VALUES)


def _no_header(message: Message, rng: random.Random) -> None:
    if message.headers:
        del message.headers[rng.choice(list(message.headers))]


def _structure(message: Message, rng: random.Random) -> None:
    parts: list[Any] = [[1], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    where = rng.randrange(4)
    if where == 3:
        parts[2][rng.choice(list(parts[2]))] = rng.choice((*_VALUES, [{"task": "proj.good"}], {"task": 3}))
    else:
        parts[where] = rng.choice(_VALUES)
    message.body = json.dumps(parts).encode()


def _property(message: Message, rng: random.Random) -> None:
    message.content_type = rng.choice(
        ("", "application/json", "application/x-yaml", "text/plain", "application/data")
    )
    if rng.random() < 0.3:
        message.headers["compression"] = rng.choice(("application/x-gzip", "gzip", "zstd"))
        message.body = rng.choice((gzip.compress, zlib.compress))(message.body)
