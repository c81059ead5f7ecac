"""Our messages beside those a real Celery wrote, field by field, for both brokers."""

import json
import uuid
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from taskq.wire import envelope
from taskq.wire.message import Message
from taskq.wire.protocol import Call, decode, encode
from taskq.wire.request import Request
from taskq.wire.serializers import get_serializer
from tests.calls import call_of

ALL = frozenset(["json", "pickle", "yaml", "msgpack"])
GOLDEN = Path(__file__).parent / "golden"
JSON = get_serializer("json")


def golden(name: str) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = json.loads((GOLDEN / f"{name}.json").read_text())["data"]
    return data


def from_redis(raw: str) -> Message:
    return envelope.loads(raw.encode())


def from_amqp(record: Mapping[str, Any]) -> Message:
    body, properties = record["body"], record["properties"]
    return Message(
        headers=record["headers"],
        body=b64decode(body["base64"]) if isinstance(body, dict) else body.encode(),
        content_type=properties["content_type"],
        content_encoding=properties["content_encoding"],
        correlation_id=properties["correlation_id"],
        reply_to=properties["reply_to"],
        priority=properties.get("priority", 0),
        delivery_mode=properties["delivery_mode"],
        exchange=record["delivery_info"]["exchange"],
        routing_key=record["delivery_info"]["routing_key"],
    )


READERS: dict[str, Callable[[Any], Message]] = {
    "messages_redis": from_redis,
    "messages_redis_protocol1": from_redis,
    "messages_redis_settings": from_redis,
    "messages_amqp": from_amqp,
    "messages_amqp_chords": from_amqp,
}


def all_messages(*files: str) -> Iterator[Any]:
    for file in files:
        for number, record in enumerate(golden(file)):
            for index, message in enumerate(record["messages"]):
                yield pytest.param(READERS[file](message), id=f"{file}-{number}-{record['case']}-{index}")


def tid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def sig(task: str, *args: Any, **changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "task": task,
        "args": list(args),
        "kwargs": {},
        "options": {},
        "subtask_type": None,
        "immutable": False,
    }
    return {**plain, **changes}


def canvas(kind: str, *tasks: dict[str, Any]) -> dict[str, Any]:
    return sig(f"celery.{kind}", kwargs={"tasks": list(tasks)}, subtask_type=kind)


NOON = datetime(2035, 6, 1, 12, tzinfo=UTC)
ECHO = "golden.echo"
NAIVE = NOON.replace(tzinfo=None)

#: case -> (number of its id, what the same call is here). Relative times are taken from the golden message.
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (1, {}),
    "kwargs": (2, {"args": (2,), "kwargs": {"y": 3}}),
    "no_args": (3, {"task": ECHO, "args": ()}),
    "unicode_args": (4, {"task": ECHO, "args": ("\u00e9\u4e2d\U0001f600",)}),
    "long_args_truncated_repr": (
        5,
        {"task": ECHO, "args": ("x" * 3000, list(range(2000))), "kwargs": {"k": "y" * 3000}},
    ),
    "nested_args_repr_levels": (
        6,
        {"task": ECHO, "args": ([[[[[1]]]]], {"a": {"b": {"c": {"d": 1}}}})},
    ),
    "argsrepr_override": (7, {"argsrepr": "<secret>", "kwargsrepr": "<k>"}),
    "countdown": (8, {"eta": ...}),
    "countdown_float": (9, {"eta": ...}),
    "countdown_zero": (10, {}),
    "eta_utc": (11, {"eta": NOON + timedelta(milliseconds=250)}),
    "eta_tz_aware": (12, {"eta": NOON}),
    "eta_naive": (13, {"eta": NAIVE}),
    "expires_int": (14, {"expires": ...}),
    "expires_float": (15, {"expires": ...}),
    "expires_datetime_tz": (16, {"expires": NOON}),
    "expires_datetime_naive": (17, {"expires": NAIVE}),
    "expires_past": (18, {"expires": ...}),
    "countdown_and_expires": (19, {"eta": ..., "expires": ...}),
    "link_single": (20, {"callbacks": [sig("golden.add", 10)]}),
    "link_list": (21, {"callbacks": [sig("golden.add", 10), sig("golden.add", 1, 1, immutable=True)]}),
    "link_error": (22, {"errbacks": [sig("golden.old_errback")]}),
    "link_error_list": (23, {"errbacks": [sig("golden.old_errback"), sig("golden.new_errback")]}),
    "link_group": (24, {"callbacks": [canvas("group", sig("golden.add", 1), sig("golden.add", 2))]}),
    "link_chain": (25, {"callbacks": [canvas("chain", sig("golden.add", 1), sig("golden.add", 2))]}),
    "priority_0": (30, {"priority": 0}),
    "priority_3": (31, {"priority": 3}),
    "priority_5": (32, {"priority": 5}),
    "priority_9": (33, {"priority": 9}),
    "queue": (34, {"routing_key": "other"}),
    "queue_object_direct": (35, {"routing_key": "q1"}),
    "queue_object_topic": (36, {"exchange": "ex2", "routing_key": "a.b.c"}),
    "serializer_json": (40, {}),
    "serializer_pickle": (41, {"serializer": get_serializer("pickle")}),
    "serializer_yaml": (42, {"serializer": get_serializer("yaml")}),
    "serializer_msgpack": (43, {"serializer": get_serializer("msgpack")}),
    "compression_zlib": (44, {"compression": "zlib"}),
    "compression_gzip": (45, {"compression": "gzip"}),
    "compression_bzip2": (46, {"compression": "bzip2"}),
    "compression_lzma": (47, {"compression": "lzma"}),
    "compression_brotli": (48, {"compression": "brotli"}),
    "compression_zstd": (49, {"compression": "zstd"}),
    "pickle_and_zlib": (50, {"serializer": get_serializer("pickle"), "compression": "zlib"}),
    "headers": (51, {"headers": {"x-tenant": "acme", "n": 1}}),
    "ignore_result": (52, {"ignore_result": True}),
    "time_limits": (53, {"time_limit": 30, "soft_time_limit": 20.5}),
    "retries": (54, {"retries": 2}),
    "shadow": (55, {"shadow": "pretty.name"}),
    "root_and_parent": (56, {"root_id": tid(900), "parent_id": tid(901)}),
    "stamps": (57, {"stamped_headers": ["tenant", "ids"], "stamps": {"tenant": "acme", "ids": [1, 2]}}),
    "delivery_mode_transient": (58, {"delivery_mode": 1}),
    "reply_to": (59, {"reply_to": "my-replies"}),
    "extra_properties": (60, {}),
    "xmap": (
        61,
        {
            "task": "celery.map",
            "args": (),
            "kwargs": {"task": sig("golden.xsum", args=()), "it": [[1, 2], [3, 4]]},
        },
    ),
    "xstarmap": (
        62,
        {
            "task": "celery.starmap",
            "args": (),
            "kwargs": {"task": sig("golden.add", args=()), "it": [(1, 2), (3, 4)]},
        },
    ),
    "json_types": (
        63,
        {
            "task": ECHO,
            "args": (
                NOON + timedelta(milliseconds=250),
                NAIVE,
                date(2035, 6, 1),
                time(12, 30, 1, 5),
                Decimal("1.10"),
                uuid.UUID(int=5),
                b"abc",
                b"\xff\x00",
                (1, 2),
                None,
                True,
                1.5,
            ),
        },
    ),
}

#: Where we mean to differ: case -> headers that are not compared.
DIFFERENT_HEADERS = {
    "long_args_truncated_repr": {"argsrepr", "kwargsrepr"},  # cut at another character; any text is valid
    "json_types": {"argsrepr"},  # b'\xff\x00' there is b'ff00'
}
#: Properties of Celery's that we never send: RabbitMQ would drop the message without a result (`expiration`);
#: unknown options are errors here (`app_id`); argsrepr is a header, its copy among the properties is a slip.
NOT_SENT = {"expiration", "app_id", "argsrepr", "kwargsrepr"}


def instant(text: str | None) -> datetime | None:
    """Celery writes some times in other zones, or without; ours are UTC and say so."""
    if text is None:
        return None
    when = datetime.fromisoformat(text)
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def same_call(case: str, theirs: Message) -> Call:
    number, options = CASES[case]
    times = {name: instant(theirs.headers[name]) for name, value in options.items() if value is ...}
    plain: dict[str, Any] = {
        "task": "golden.add",
        "id": tid(number),
        "args": (2, 2),
        "kwargs": {},
        "serializer": JSON,
        "origin": theirs.headers["origin"],
        "reply_to": theirs.reply_to,
    }
    return call_of(**{**plain, **options, **times})


def comparable(headers: Mapping[str, Any], leave_out: set[str]) -> dict[str, Any]:
    kept = {name: value for name, value in headers.items() if name not in leave_out}
    kept["eta"], kept["expires"] = instant(headers["eta"]), instant(headers["expires"])
    kept["stamped_headers"] = sorted(headers["stamped_headers"] or [])  # a set in Celery: any order
    return kept


def comparable_properties(message: Message) -> dict[str, Any]:
    names = ("content_type", "content_encoding", "correlation_id", "reply_to", "priority", "delivery_mode")
    return {name: getattr(message, name) for name in (*names, "exchange", "routing_key")}


def single_task_messages() -> Iterator[Any]:
    for file in ("messages_redis", "messages_amqp"):
        for record in golden(file):
            if record["case"] in CASES and record["messages"]:  # RabbitMQ had dropped the expired one
                message = READERS[file](record["messages"][0])
                yield pytest.param(record["case"], message, id=f"{file}-{record['case']}")


@pytest.mark.parametrize(("case", "theirs"), list(single_task_messages()))
def test_the_same_call_gives_the_same_message(case: str, theirs: Message) -> None:
    ours = encode(same_call(case, theirs))
    left_out = DIFFERENT_HEADERS.get(case, set())
    assert comparable(ours.headers, left_out) == comparable(theirs.headers, left_out)
    assert list(ours.headers) == list(theirs.headers)
    assert comparable_properties(ours) == comparable_properties(theirs)
    mine, other = decode(ours, ALL), decode(theirs, ALL)
    assert (mine.args, mine.kwargs) == (other.args, other.kwargs)
    links = ("callbacks", "errbacks", "chain", "chord")
    assert [getattr(mine, name) for name in links] == [getattr(other, name) for name in links]
    for time_header in (ours.headers["eta"], ours.headers["expires"]):
        assert time_header is None or time_header.endswith("+00:00")


def test_every_call_variant_was_compared() -> None:
    several = {
        "chain3",
        "chain_immutable",
        "chain_with_options",
        "chain_link_error",
        "group3",
        "group_of_chains",
    }
    several |= {
        "chunks",
        "chord",
        "group_then_task_upgrades_to_chord",
        "chain_group_task",
        "chord_body_chain",
    }
    several |= {"chord_link_error", "exchange_and_routing_key"}
    for file in ("messages_redis", "messages_amqp"):
        assert {record["case"] for record in golden(file)} - several == CASES.keys()


REDIS_SINGLE = [r for r in golden("messages_redis") if r["case"] in CASES]


@pytest.mark.parametrize("record", REDIS_SINGLE, ids=[r["case"] for r in REDIS_SINGLE])
def test_the_envelope_has_the_same_fields(record: dict[str, Any]) -> None:
    raw = record["messages"][0]
    theirs = json.loads(raw)
    call = same_call(record["case"], from_redis(raw))
    tag = theirs["properties"]["delivery_tag"]
    ours = json.loads(envelope.dumps(encode(call), delivery_tag=tag, body_encoding="base64"))
    assert list(ours) == list(theirs)
    expected = {name: value for name, value in theirs["properties"].items() if name not in NOT_SENT}
    assert ours["properties"] == expected
    assert (ours["content-type"], ours["content-encoding"]) == (
        theirs["content-type"],
        theirs["content-encoding"],
    )


def test_text_is_not_wrapped_in_base64_unless_it_is_asked_for() -> None:
    raw = REDIS_SINGLE[0]["messages"][0]
    ours = json.loads(envelope.dumps(encode(same_call("plain", from_redis(raw))), delivery_tag="t"))
    assert ours["properties"]["body_encoding"] == "utf-8"
    assert json.loads(ours["body"])[0] == [2, 2]


def recalled(request: Request, message: Message) -> Call:
    """The call that would have made this message."""
    hard, soft = request.timelimit
    serializer = get_serializer(message.content_type)
    same = (
        *("task", "id", "args", "kwargs", "root_id", "parent_id", "group", "group_index", "retries", "eta"),
        *("expires", "shadow", "argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting"),
        *("stamped_headers", "stamps", "callbacks", "errbacks", "chain", "chord", "headers"),
    )
    fields: dict[str, Any] = {name: getattr(request, name) for name in same}
    fields |= {"serializer": serializer, "compression": message.headers.get("compression")}
    fields |= {"time_limit": hard, "soft_time_limit": soft, "delivery_mode": message.delivery_mode}
    fields |= {name: getattr(message, name) for name in ("exchange", "routing_key", "priority", "reply_to")}
    return call_of(**fields)


PROTOCOL_2 = ("messages_redis", "messages_redis_settings", "messages_amqp", "messages_amqp_chords")


@pytest.mark.parametrize("message", list(all_messages(*PROTOCOL_2)))
def test_every_message_survives_reading_and_writing(message: Message) -> None:
    request = decode(message, ALL)
    again = encode(recalled(request, message))
    assert comparable(again.headers, set()) == comparable(message.headers, set())
    assert comparable_properties(again) == comparable_properties(message)
    assert replace(decode(again, ALL), size=request.size) == request  # kombu writes blanks


@pytest.mark.parametrize("message", list(all_messages("messages_redis_protocol1")))
def test_protocol_1_says_the_same_in_its_body(message: Message) -> None:
    body = json.loads(message.body)
    request = decode(message, ["json"])
    assert (request.task, request.id, request.args, request.kwargs) == tuple(
        body[name] for name in ("task", "id", "args", "kwargs")
    )
    assert (request.retries, request.timelimit) == (body["retries"], tuple(body["timelimit"]))
    assert (request.group, request.group_index) == (body["taskset"], body["group_index"])
    assert (request.eta, request.expires) == (instant(body["eta"]), instant(body["expires"]))
    assert (request.callbacks, request.errbacks) == (body["callbacks"], body["errbacks"])
    assert (request.chain, request.chord, request.headers) == (None, body["chord"], {})


def test_the_mixed_form_is_read_with_headers_winning() -> None:
    body = {"args": [1], "kwargs": {"k": 2}, "retries": 1, "callbacks": [sig("golden.add")], "task": "other"}
    message = Message(headers={"task": "golden.add", "id": "a", "retries": 5}, body=JSON.dumps(body))
    request = decode(message, ["json"])
    assert (request.task, request.id, request.retries) == ("golden.add", "a", 5)
    assert (request.args, request.kwargs, request.callbacks) == ([1], {"k": 2}, [sig("golden.add")])


def test_headers_of_callers_are_those_that_are_not_celerys() -> None:
    (record,) = (r for r in golden("messages_redis") if r["case"] == "headers")
    message = from_redis(record["messages"][0])
    message.headers |= {
        "x-death": [{}],
        "x-first-death-queue": "q",
        "x-last-death-reason": "r",
        "redelivered": True,
    }
    request = decode(message, ["json"])
    assert request.headers == {"x-tenant": "acme", "n": 1}
    assert request.delivery_info["redelivered"] is True
