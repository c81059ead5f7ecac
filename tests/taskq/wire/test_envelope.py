import base64
import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskq.errors import DecodeError, EncodeError
from taskq.wire import envelope
from taskq.wire.message import Message

TEXT = st.text()
HEADERS = st.dictionaries(
    TEXT.filter(lambda key: key not in {"__type__", "compression"}),
    st.none()
    | st.integers()
    | st.floats()
    | TEXT
    | st.uuids()
    | st.lists(st.floats())
    | st.dates()
    | st.binary(),
)
MESSAGES = st.builds(
    Message,
    headers=HEADERS,
    body=st.binary() | TEXT.map(str.encode),
    content_type=TEXT,
    content_encoding=st.sampled_from(["utf-8", "binary"]),
    correlation_id=TEXT,
    reply_to=TEXT,
    priority=st.integers(0, 255),
    delivery_mode=st.sampled_from([1, 2]),
    exchange=TEXT,
    routing_key=TEXT,
)


def same(one: Message, other: Message) -> bool:
    return repr(one) == repr(other)  # NaN is itself there


@given(MESSAGES, st.sampled_from(["auto", "base64"]))
def test_a_message_comes_back_whole(message: Message, body_encoding: str) -> None:
    raw = envelope.dumps(message, delivery_tag="t", body_encoding=body_encoding)
    assert same(envelope.loads(raw), message)


def test_bodies_that_are_not_text_are_base64() -> None:
    text = Message(headers={}, body=b"[1]")
    packed = Message(headers={"compression": "application/x-gzip"}, body=b"[1]")
    binary = Message(headers={}, body=b"[1]", content_encoding="binary")
    lying = Message(headers={}, body=b"\xff")
    ways = []
    for message in (text, packed, binary, lying):
        written = json.loads(envelope.dumps(message, delivery_tag="t"))
        ways.append(written["properties"]["body_encoding"])
        assert written["body"] == "[1]" or base64.b64decode(written["body"]) == message.body
    assert ways == ["utf-8", "base64", "base64", "base64"]


def test_a_broker_may_count_priorities_its_own_way() -> None:
    raw = envelope.dumps(Message(headers={}, body=b"", priority=9), delivery_tag="t", priority=0)
    assert envelope.loads(raw).priority == 0


def test_headers_hold_extended_types() -> None:
    headers = {
        "when": datetime(2035, 6, 1, tzinfo=UTC),
        "id": uuid.UUID(int=7),
        "big": 2**70,
        "deep": {"x": [b"a"]},
    }
    raw = envelope.dumps(Message(headers=headers, body=b""), delivery_tag="t")
    assert envelope.loads(raw).headers == headers


def test_headers_that_would_end_a_celery_worker_are_not_written() -> None:
    message = Message(headers={"x": {"__type__": "zzz", "__value__": 1}}, body=b"")
    with pytest.raises(EncodeError, match="unknown __type__ 'zzz'"):
        envelope.dumps(message, delivery_tag="t")
    with pytest.raises(EncodeError, match="is of type set"):
        envelope.dumps(Message(headers={"x": {1}}, body=b""), delivery_tag="t")


def test_a_body_may_hold_any_text() -> None:
    message = Message(headers={}, body=b'{"__type__": "zzz", "__value__": 1}')
    assert envelope.loads(envelope.dumps(message, delivery_tag="t")).body == message.body


def good() -> dict[str, Any]:
    written: dict[str, Any] = json.loads(
        envelope.dumps(Message(headers={"id": "a"}, body=b"[]"), delivery_tag="t")
    )
    return written


def test_what_celery_leaves_out_has_defaults() -> None:
    written = good()
    written["content-encoding"] = written["headers"] = None
    written["properties"] = {"delivery_info": {"exchange": "e", "routing_key": "r"}}
    read = envelope.loads(json.dumps(written).encode())
    assert read == Message(headers={}, body=b"[]", exchange="e", routing_key="r")


BAD: list[tuple[tuple[str, ...], Any]] = [
    ((), None),
    ((), "hello"),
    ((), []),
    (("body",), None),
    (("body",), 7),
    (("body",), "\ud800"),
    (("content-type",), None),
    (("content-encoding",), 7),
    (("headers",), [1]),
    (("headers",), "x"),
    (("headers", "x"), {"__type__": "zzz", "__value__": 1}),
    (("properties",), None),
    (("properties",), []),
    (("properties", "correlation_id"), 7),
    (("properties", "reply_to"), {"a": 1}),
    (("properties", "priority"), "9"),
    (("properties", "priority"), True),
    (("properties", "delivery_mode"), "persistent"),
    (("properties", "body_encoding"), "rot13"),
    (("properties", "body_encoding"), ["base64"]),
    (("properties", "delivery_info"), None),
    (("properties", "delivery_info", "exchange"), None),
    (("properties", "delivery_info", "routing_key"), 7),
]


def changed(document: Any, path: tuple[str, ...], value: Any) -> Any:
    if not path:
        return value
    return {**document, path[0]: changed(document.get(path[0]), path[1:], value)}


@pytest.mark.parametrize(("path", "value"), BAD)
def test_a_wrong_value_is_a_decode_error(path: tuple[str, ...], value: Any) -> None:
    with pytest.raises(DecodeError):
        envelope.loads(json.dumps(changed(good(), path, value)).encode())


@pytest.mark.parametrize("path", ["body", "content-type", "properties"])
def test_a_missing_key_is_named(path: str) -> None:
    written = good()
    del written[path]
    with pytest.raises(DecodeError, match=f"not a message envelope: {path} is missing"):
        envelope.loads(json.dumps(written).encode())


def test_a_body_that_is_not_base64_is_a_decode_error() -> None:
    written = changed(good(), ("properties", "body_encoding"), "base64")
    for body in ("a", "\u00e9"):
        with pytest.raises(DecodeError, match="not a message envelope"):
            envelope.loads(json.dumps({**written, "body": body}).encode())


@given(st.binary())
def test_rubbish_is_a_decode_error(raw: bytes) -> None:
    with pytest.raises(DecodeError):
        envelope.loads(raw)
