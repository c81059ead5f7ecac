"""Remote control on the wire: requests and replies (wire-format.md 8). Pure."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from taskq.errors import DecodeError
from taskq.wire.message import Message
from taskq.wire.serializers import Serializer, bounded, get_serializer, json_dumps, require_accepted
from taskq.wire.values import MAX_VALUES

#: No node has a longer name.
_LONGEST_PATTERN = 512


@dataclass(slots=True)
class ControlCommand:
    """A command to workers: to those named, or to those whose name matches the pattern, or to all.

    `matcher` is "glob" or "pcre" (a Python regular expression). `reply_to` is the caller's key, "" for no reply.
    """

    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    destination: Sequence[str] | None = None
    pattern: str | None = None
    matcher: str | None = None
    ticket: str = ""
    reply_to: str = ""
    reply_exchange: str = ""
    clock: Any = 0

    def is_for(self, node: str, *, pcre: bool = False) -> bool:
        """Whether a worker of this name is meant; `pcre`: regular expressions are tried, too.

        Raises:
            ValueError: the pattern cannot be read, is too long or may not be tried, or nobody knows the matcher.
        """
        if self.destination:
            return node in self.destination
        if not (self.pattern and self.matcher):
            return True
        if len(self.pattern) > _LONGEST_PATTERN:
            raise ValueError(f"the pattern has {len(self.pattern)} characters, more than {_LONGEST_PATTERN}")
        if self.matcher == "glob":
            return fnmatchcase(node, self.pattern)
        if self.matcher != "pcre":
            raise ValueError(f"no matcher {self.matcher!r}: glob and pcre are known")
        if not pcre:
            raise ValueError("regular expressions are not tried here (worker_pcre_matchers): use a glob")
        try:
            return re.match(self.pattern, node) is not None
        except re.error as error:
            raise ValueError(f"the pattern {self.pattern!r} cannot be read: {error}") from None


def write_command(
    command: ControlCommand, serializer: Serializer, *, exchange: str, expires: float
) -> Message:
    """The request; `expires` is the Unix time after which nobody waits for replies, 0 for none."""
    body: dict[str, Any] = {
        "method": command.method,
        "arguments": dict(command.arguments),
        "destination": command.destination,
        "pattern": command.pattern,
        "matcher": command.matcher,
    }
    if command.reply_to:
        body["ticket"] = command.ticket
        body["reply_to"] = {"exchange": command.reply_exchange, "routing_key": command.reply_to}
    return Message(
        {"clock": command.clock, "expires": expires},
        serializer.dumps(body),
        serializer.content_type,
        serializer.content_encoding,
        exchange=exchange,
        routing_key="",
    )


def read_command(message: Message, accept: Collection[str]) -> ControlCommand:
    """Read a request.

    Raises:
        DecodeError: it is none.
    """
    body = read_body(message, accept)
    method, arguments = body.get("method"), body.get("arguments") or {}
    if not (isinstance(method, str) and isinstance(arguments, dict)):
        raise DecodeError("not a control command: no method and arguments")
    command = ControlCommand(method, arguments, clock=message.headers.get("clock"))
    command.destination = _names(body.get("destination"))
    command.pattern, command.matcher = _text(body, "pattern"), _text(body, "matcher")
    reply = body.get("reply_to")
    if isinstance(reply, dict):
        command.ticket = _text(body, "ticket") or ""
        command.reply_to = _text(reply, "routing_key") or ""
        command.reply_exchange = _text(reply, "exchange") or ""
    return command


def write_reply(command: ControlCommand, node: str, value: Any, clock: int) -> Message:
    """What a worker answers; always JSON. Raises EncodeError."""
    return Message(
        {"ticket": command.ticket, "clock": clock},
        json_dumps({node: value}),
        exchange=command.reply_exchange,
        routing_key=command.reply_to,
        delivery_mode=1,
    )


def read_body(message: Message, accept: Collection[str]) -> dict[str, Any]:
    """The object a message of the bus holds.

    Raises:
        DecodeError: it cannot be read, is of a content type that is not accepted, or holds none.
    """
    require_accepted(message.content_type, accept)
    body = bounded(get_serializer(message.content_type), MAX_VALUES).loads(message.body)
    if not isinstance(body, dict):
        raise DecodeError(f"not an object but {type(body).__name__}")
    return body


def _text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise DecodeError(f"{name} is no text")
    return value


def _names(value: Any) -> list[str] | None:
    if isinstance(value, str):
        return [value]
    if value is not None and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        raise DecodeError("destination is no list of node names")
    return value
