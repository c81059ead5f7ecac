"""Small documents that hold millions of objects are refused before any is built."""

import json
import tracemalloc
import zlib
from dataclasses import replace
from typing import Any

import msgpack
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from taskq.errors import DecodeError, EncodeError
from taskq.wire import envelope
from taskq.wire.message import Message
from taskq.wire.protocol import Call, decode, encode
from taskq.wire.serializers import bounded, get_serializer
from taskq.wire.values import json_values, msgpack_values

ATOMS = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(ATOMS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=30)


def count(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(count, value.values()))
    return 1 + (sum(map(count, value)) if isinstance(value, list) else 0)


@given(VALUES)
def test_json_is_counted_exactly_where_it_matters(value: Any) -> None:
    data, exact = json.dumps(value).encode(), count(value)
    assert json_values(data, exact - 1) > exact - 1
    assert json_values(data, exact) <= exact


@given(VALUES)
def test_msgpack_is_counted_exactly(value: Any) -> None:
    assert msgpack_values(msgpack.packb(value), 10**6) == count(value)


@given(st.binary(max_size=200))
def test_any_bytes_are_counted_as_msgpack(data: bytes) -> None:
    assert msgpack_values(data, 50) <= 51


def test_msgpack_of_each_size() -> None:
    value: list[Any] = [b"x" * 300, b"x" * 70_000, "y" * 40, "y" * 300, "y" * 70_000, [0] * 20, [0] * 70_000]
    value += [msgpack.ExtType(1, b"z" * n) for n in (1, 2, 4, 8, 16, 17, 300, 70_000)]
    value += [dict.fromkeys(range(20), 1.5), dict.fromkeys(range(70_000), 1)]
    expected = 1 + 17 + 20 + 70_000 + 2 * 20 + 2 * 70_000
    assert msgpack_values(msgpack.packb(value), 10**6) == expected


def test_yaml_is_counted_at_least() -> None:
    count_yaml = get_serializer("yaml").values
    assert count_yaml is not None
    assert count_yaml(yaml.safe_dump({"a": [1, 2, {"b": 3}]}).encode(), 100) >= 8
    assert count_yaml(b"[" + b"1," * 50 + b"1]", 10) == 11


def bomb(inflated: bytes) -> Message:
    message = encode(Call("proj.good", "bomb", (), {}, get_serializer("json")))
    headers = {**message.headers, "compression": "application/x-gzip"}
    return replace(message, headers=headers, body=zlib.compress(inflated))


@pytest.mark.parametrize(
    ("content_type", "inflated"),
    [
        ("application/json", b"[[" + b"[]," * 2_000_000 + b"[]],{},{}]"),
        ("application/json", b"[[" + b'"",' * 2_000_000 + b'""],{},{}]'),
        ("application/x-msgpack", b"\x93\xdd\x00\x1e\x84\x80" + b"\x90" * 2_000_000 + b"\x80\x80"),
        ("application/x-yaml", b"[[" + b"[]," * 400_000 + b"[]],{},{}]"),
    ],
)
def test_a_bomb_of_objects_costs_no_more_than_its_bytes(content_type: str, inflated: bytes) -> None:
    message = replace(bomb(inflated), content_type=content_type)
    assert len(message.body) < 20_000
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match=r"more than 100000 values \(max_message_values\)"):
            decode(message, [content_type], max_values=100_000)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(inflated) + 10_000_000
    finally:
        tracemalloc.stop()


def test_texts_full_of_separators_are_one_value() -> None:
    text = ',[{"\\' * 100_000
    message = encode(Call("proj.good", "text", (text,), {}, get_serializer("json")))
    assert decode(message, ["json"], max_values=100).args == [text]
    assert decode(message, ["json"]).size == len(message.body)


def test_the_caller_learns_of_it_first() -> None:
    with pytest.raises(EncodeError, match="more than 100 values"):
        encode(Call("proj.good", "many", (list(range(1000)),), {}, get_serializer("json")), 100)


def test_the_headers_of_an_envelope_count() -> None:
    raw = envelope.dumps(Message({"a": [[]] * 1_100_000}, b"{}"), delivery_tag="tag")
    with pytest.raises(DecodeError, match="more than 1000000 values"):
        envelope.loads(raw)
    body = b'{"a": "' + b"," * 4_000_000 + b'"}'
    assert envelope.loads(envelope.dumps(Message({}, body), delivery_tag="tag")).body == body


def test_a_stored_result_counts_too() -> None:
    small = bounded(get_serializer("json"), 100)
    assert small.loads(b"[1,2,3]") == [1, 2, 3]
    with pytest.raises(DecodeError, match="more than 100 values"):
        small.loads(json.dumps(list(range(200))).encode())
