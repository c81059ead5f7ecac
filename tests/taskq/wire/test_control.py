"""Remote control on the wire, against what was recorded from Celery."""

import json
from typing import Any

import pytest

from taskq.errors import DecodeError
from taskq.wire.control import ControlCommand, read_command, write_command, write_reply
from taskq.wire.message import Message
from taskq.wire.serializers import get_serializer

JSON = get_serializer("json")
ACCEPT = ["json"]


def message(body: Any, **fields: Any) -> Message:
    return Message({"clock": 7}, json.dumps(body).encode(), **fields)


def test_a_request_is_what_celery_sends() -> None:
    command = ControlCommand(
        "ping", ticket="t", reply_to="oid", reply_exchange="reply.celery.pidbox", clock=1
    )
    sent = write_command(command, JSON, exchange="celery.pidbox", expires=1795340628.45)
    assert json.loads(sent.body) == {
        "method": "ping",
        "arguments": {},
        "destination": None,
        "pattern": None,
        "matcher": None,
        "ticket": "t",
        "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "oid"},
    }
    assert sent.headers == {"clock": 1, "expires": 1795340628.45}
    assert (sent.exchange, sent.routing_key, sent.delivery_mode) == ("celery.pidbox", "", 2)
    assert set(
        json.loads(write_command(ControlCommand("x"), JSON, exchange="celery.pidbox", expires=0).body)
    ) == {*("method", "arguments", "destination", "pattern", "matcher")}


def test_a_reply_is_what_celery_sends() -> None:
    command = ControlCommand("ping", ticket="t", reply_to="oid", reply_exchange="reply.celery.pidbox")
    reply = write_reply(command, "w@host", {"ok": "pong"}, 3)
    assert (reply.headers, json.loads(reply.body)) == (
        {"ticket": "t", "clock": 3},
        {"w@host": {"ok": "pong"}},
    )
    assert (reply.exchange, reply.routing_key, reply.delivery_mode) == ("reply.celery.pidbox", "oid", 1)


def test_reading_gives_back_what_was_written() -> None:
    command = ControlCommand(
        "revoke", {"task_id": "x"}, ["w@host"], "w*", "glob", "t", "oid", "reply.celery.pidbox", 5
    )
    assert read_command(write_command(command, JSON, exchange="celery.pidbox", expires=0), ACCEPT) == command
    assert read_command(message({"method": "ping", "arguments": None, "destination": "w@host"}), ACCEPT) == (
        ControlCommand("ping", {}, ["w@host"], clock=7)
    )


@pytest.mark.parametrize(
    "body",
    [
        *(
            [],
            "x",
            None,
            {},
            {"method": 1},
            {"method": "x", "arguments": [1]},
            {"method": "x", "destination": [1]},
        ),
        *({"method": "x", "pattern": 1}, {"method": "x", "reply_to": {"routing_key": []}}),
    ],
)
def test_what_is_no_command_is_refused(body: Any) -> None:
    with pytest.raises(DecodeError):
        read_command(message(body), ACCEPT)


def test_no_pickle() -> None:
    with pytest.raises(DecodeError, match="refused"):
        read_command(Message({}, b"x", "application/x-python-serialize"), ACCEPT)


@pytest.mark.parametrize(
    ("fields", "meant"),
    [
        ({}, True),
        ({"destination": ["w@host", "x@host"]}, True),
        ({"destination": ["x@host"]}, False),
        ({"destination": ["x@host"], "pattern": "w*", "matcher": "glob"}, False),
        ({"pattern": "w@*", "matcher": "glob"}, True),
        ({"pattern": "x@*", "matcher": "glob"}, False),
        ({"pattern": "w@", "matcher": "pcre"}, True),
        ({"pattern": "host", "matcher": "pcre"}, False),
        ({"pattern": "x@*"}, True),
    ],
)
def test_who_is_meant(fields: dict[str, Any], *, meant: bool) -> None:
    assert ControlCommand("ping", **fields).is_for("w@host", pcre=True) is meant


@pytest.mark.parametrize(("pattern", "matcher"), [("(", "pcre"), ("x", "sounds-like")])
def test_patterns_that_cannot_be_read(pattern: str, matcher: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be read|no matcher"):
        ControlCommand("ping", pattern=pattern, matcher=matcher).is_for("w@host", pcre=True)


def test_patterns_cannot_keep_a_worker_busy() -> None:
    with pytest.raises(ValueError, match="worker_pcre_matchers"):
        ControlCommand("ping", pattern="(a+)+$", matcher="pcre").is_for("a" * 40 + "@host")
    for matcher in ("glob", "pcre"):
        with pytest.raises(ValueError, match="more than 512"):
            ControlCommand("ping", pattern="*" * 513, matcher=matcher).is_for("w@host", pcre=True)
    assert not ControlCommand("ping", pattern="*a" * 256, matcher="glob").is_for("a" * 200 + "b")
