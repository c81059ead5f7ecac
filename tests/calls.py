"""Calls for tests, by the names that a message's fields have on the wire."""

from typing import Any

from taskq.wire.protocol import Call
from taskq.wire.serializers import get_serializer

_OF_THE_CALL = frozenset(
    ("task", "id", "args", "kwargs", "serializer", "origin", "exchange", "routing_key", "reply_to")
)
_OPTIONS = {"group": "group_id", "callbacks": "link", "errbacks": "link_error"}


def call_of(**fields: Any) -> Call:
    """A call of `add(2, 2)` unless these say otherwise; `stamps` are a mapping."""
    stamps = fields.pop("stamps", None) or {}
    plain = {name: value for name, value in fields.items() if name in _OF_THE_CALL}
    options = {_OPTIONS.get(name, name): value for name, value in fields.items() if name not in plain}
    known: dict[str, Any] = {
        "task": "add",
        "id": "00000000-0000-4000-8000-000000000001",
        "args": (2, 2),
        "kwargs": {},
        "serializer": get_serializer("json"),
    }
    return Call(**{**known, **plain}, options={**options, **stamps})
