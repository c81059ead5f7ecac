"""kombu's JSON envelope (wire-format.md 2.3): how a message lies in a Redis list; ours in SQLite too."""

from base64 import b64encode
from binascii import a2b_base64
from typing import Any

import orjson

from taskq.errors import DecodeError, EncodeError
from taskq.wire.message import Message
from taskq.wire.serializers import get_serializer, json_dumps, json_loads, require_few_values
from taskq.wire.values import MAX_VALUES

_JSON = get_serializer("json")
_PLAIN = frozenset((str, int, bool, type(None)))


def dumps(
    message: Message, *, delivery_tag: str, body_encoding: str = "auto", priority: int | None = None
) -> bytes:
    """Write a message as one JSON object.

    `body_encoding` is "base64" as Celery writes it, or "auto": text as text, which Celery reads as well and
    which is a quarter smaller (wire-format.md 13.7), the rest as base64.
    `priority` replaces the message's own where a broker counts differently.

    Raises:
        EncodeError: a header cannot be written, or where it goes is no text.
    """
    try:
        f"{message.exchange}{message.routing_key}".encode()
    except UnicodeEncodeError as exc:
        raise EncodeError(f"{message.routing_key!r:.100} names no queue: {exc}") from exc
    body, encoding = _written_body(message, body_encoding)
    raw = json_dumps(
        {
            "body": body,
            "content-encoding": message.content_encoding,
            "content-type": message.content_type,
            "headers": message.headers,
            "properties": {
                "correlation_id": message.correlation_id,
                "reply_to": message.reply_to,
                "delivery_mode": message.delivery_mode,
                "delivery_info": {"exchange": message.exchange, "routing_key": message.routing_key},
                "priority": message.priority if priority is None else priority,
                "body_encoding": encoding,
                "delivery_tag": delivery_tag,
            },
        },
        doubtful=message.headers,
    )
    if b'"__type__"' in raw:  # in a header: those in the body are escaped
        _check_readable(raw)
    return raw


def _check_readable(raw: bytes) -> None:
    """A header that looks like an extended type of unknown name ends a Celery worker (wire-format.md 2.10)."""
    try:
        json_loads(raw)
    except DecodeError as exc:
        raise EncodeError(f"a header of the message could not be read again: {exc}") from None


def loads(raw: bytes) -> Message:
    """Read a message. Headers are taken as they are: `protocol.decode` judges them.

    Raises:
        DecodeError: it is no envelope; the message says why, in one line.
    """
    return loads_tagged(raw)[0]


def loads_tagged(raw: bytes) -> tuple[Message, str]:
    """The same with the delivery tag that its sender gave it, which stays the same however often it is delivered.

    Raises:
        DecodeError: as `loads`.
    """
    try:
        envelope = _read(raw)
        message = _message(envelope)
        tag = envelope["properties"].get("delivery_tag")
        return message, tag if type(tag) is str else ""
    except KeyError as exc:
        raise DecodeError(f"not a message envelope: {exc.args[0]} is missing") from None
    except (TypeError, AttributeError, ValueError) as exc:
        raise DecodeError(f"not a message envelope: {exc}") from exc


def _read(raw: bytes) -> Any:
    """The JSON of an envelope: only its headers can hold what orjson reads otherwise than kombu, and rarely do."""
    # The body is one text in it: what is counted is the headers.
    require_few_values(_JSON, raw, MAX_VALUES)
    try:
        envelope = orjson.loads(raw)
        headers = envelope["headers"].values()
    except (ValueError, TypeError, KeyError, AttributeError):
        return json_loads(raw)
    for value in headers:
        kind = type(value)
        if kind not in _PLAIN and not (kind is list and _PLAIN.issuperset(map(type, value))) and value != {}:
            return json_loads(raw)
    return envelope


def _message(envelope: Any) -> Message:
    properties = _mapping(envelope, "the whole")["properties"]
    where = _mapping(properties, "properties")["delivery_info"]
    message = Message(  # by place: names cost twice as much
        envelope.get("headers") or {},
        _read_body(envelope["body"], properties.get("body_encoding")),
        envelope["content-type"],
        envelope.get("content-encoding") or "utf-8",
        properties.get("correlation_id") or "",
        properties.get("reply_to") or "",
        properties.get("priority") or 0,
        properties.get("delivery_mode") or 2,
        _mapping(where, "delivery_info")["exchange"],
        where["routing_key"],
    )
    _mapping(message.headers, "headers")
    _check_texts(message)
    _check_numbers(message)
    return message


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if type(value) is not dict:  # exactly a dict, str, int: JSON has no other, and bool is no int here
        raise TypeError(f"{name} is {type(value).__name__}, not an object")
    return value


def _check_texts(message: Message) -> None:
    if not (
        type(message.content_type) is str
        and type(message.content_encoding) is str
        and type(message.correlation_id) is str
        and type(message.reply_to) is str
        and type(message.exchange) is str
        and type(message.routing_key) is str
    ):
        raise TypeError("content type, content encoding, ids and addresses must be text")


def _check_numbers(message: Message) -> None:
    if type(message.priority) is not int or type(message.delivery_mode) is not int:
        raise TypeError("priority and delivery_mode must be integers")


def _written_body(message: Message, encoding: str) -> tuple[str, str]:
    if encoding == "auto" and message.content_encoding == "utf-8" and not message.headers.get("compression"):
        try:
            return message.body.decode(), "utf-8"
        except UnicodeDecodeError:  # a foreign body that is not what it says: carried as it is
            pass
    return b64encode(message.body).decode(), "base64"


def _read_body(body: Any, encoding: Any) -> bytes:
    if type(body) is not str:
        raise TypeError(f"body is {type(body).__name__}, not text")
    if encoding == "base64":
        return a2b_base64(body)
    if encoding is None or encoding == "utf-8":
        return body.encode()
    raise ValueError(f"unknown body_encoding {encoding!r}")
