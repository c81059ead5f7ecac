from datetime import UTC, datetime
from typing import Any

import pytest

from taskq import envelope
from taskq.errors import ContentDisallowed, DecodeError
from taskq.message import Message
from taskq.protocol import Call, decode, encode, task_id_of
from taskq.serializers import get_serializer

JSON = frozenset(["json"])
ID = "00000000-0000-4000-8000-000000000001"


def call(**options: Any) -> Call:
    return Call(task="add", id=ID, args=(2, 2), kwargs={}, serializer=get_serializer("json"), **options)


def test_a_call_arrives_as_it_was_sent() -> None:
    request = decode(envelope.loads(envelope.dumps(encode(call(retries=3)), delivery_tag="t")), JSON)
    assert (request.task, request.id, request.root_id) == ("add", ID, ID)
    assert (request.args, request.kwargs, request.retries) == ([2, 2], {}, 3)


def test_eta_is_sent_as_utc_and_repeated_for_brokers_that_delay() -> None:
    message = encode(call(eta=datetime.fromisoformat("2035-06-01T12:00")))
    assert message.headers["eta"] == "2035-06-01T12:00:00+00:00"
    assert message.due == datetime(2035, 6, 1, 12, tzinfo=UTC).timestamp()


def test_a_content_type_not_listed_is_refused() -> None:
    with pytest.raises(ContentDisallowed, match="application/json"):
        decode(encode(call()), ["msgpack"])


def test_a_body_of_another_shape_is_a_decode_error() -> None:
    with pytest.raises(DecodeError, match="args, kwargs, embed"):
        decode(Message(headers={"task": "add", "id": ID}, body=b"[[1],{}]"), JSON)


def test_the_id_of_an_unreadable_message() -> None:
    assert task_id_of(Message(headers={"id": ID}, body=b"")) == ID
    assert task_id_of(Message(headers={}, body=b"", correlation_id="c")) == "c"
    assert task_id_of(Message(headers={"id": 7}, body=b"")) is None
