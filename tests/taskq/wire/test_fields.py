"""The table of fields: what stands in it once is true of calls, messages and requests."""

import dataclasses
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskq.canvas.signature import Signature
from taskq.errors import DecodeError
from taskq.options import CallOptions, RetryPolicy
from taskq.wire import fields
from taskq.wire.fields import BY_OPTION, FIELDS, check_options, own_options
from taskq.wire.protocol import decode, encode
from taskq.wire.request import Request
from tests.calls import call_of

SIGNATURE = {"task": "add", "args": [], "kwargs": {}, "options": {}}


def test_type_checkers_know_every_option_and_no_other() -> None:
    assert BY_OPTION.keys() == CallOptions.__annotations__.keys()
    assert fields._POLICY.keys() == RetryPolicy.__annotations__.keys()


def test_every_attribute_is_one_of_a_request() -> None:
    names = {part.name for part in dataclasses.fields(Request)}
    assert {row.attribute.partition(".")[0] for row in FIELDS} - {""} <= names


def test_each_option_and_each_pair_of_header_and_attribute_stands_once() -> None:
    options = [row.option for row in FIELDS if row.option]
    assert len(options) == len(set(options))
    places = [(row.header, row.attribute) for row in FIELDS if row.header]
    assert len(places) == len(set(places))


REQUEST = Request(
    "id",
    "add",
    root_id="root",
    parent_id="parent",
    group="group",
    group_index=3,
    shadow="shown",
    retries=2,
    timelimit=(9, 8),
    expires=datetime(2035, 1, 1, tzinfo=UTC),
    callbacks=[SIGNATURE],
    errbacks=[SIGNATURE],
    chain=[SIGNATURE],
    chord=SIGNATURE,
    headers={"tenant": "acme"},
    reply_to="oid",
    ignore_result=True,
    replaced_task_nesting=1,
    stamped_headers=["team"],
    stamps={"team": "x"},
    delivery_info={"priority": 5},
)


def test_a_retry_is_the_same_call() -> None:
    assert own_options(REQUEST) == {
        "task_id": "id",
        "root_id": "root",
        "group_id": "group",
        "group_index": 3,
        "expires": REQUEST.expires,
        "time_limit": 9,
        "soft_time_limit": 8,
        "shadow": "shown",
        "link": [SIGNATURE],
        "link_error": [SIGNATURE],
        "chain": [SIGNATURE],
        "chord": SIGNATURE,
        "reply_to": "oid",
        "ignore_result": True,
        "headers": {"tenant": "acme"},
        "priority": 5,
        "replaced_task_nesting": 1,
        "stamped_headers": ["team"],
        "team": "x",
    }


def test_a_replacement_takes_the_place_and_no_more() -> None:
    assert own_options(REQUEST, replacement=True).keys() == {
        *("task_id", "root_id", "group_id", "group_index", "chain", "chord", "reply_to", "ignore_result"),
    }


NEW_ROW = """
from taskq import options, wire
from taskq.wire import fields, kinds
import taskq.wire.fields

row = 'WireField("tenant", "tenant", "headers.tenant", kinds.NAME, _TEXT, retry=True),'
source = open(fields.__file__).read().replace("# In the body.", row)
exec(compile(source, fields.__file__, "exec"), vars(fields))

from taskq.wire.protocol import decode, encode
from tests.calls import call_of

try:
    fields.check_options({"tenant": 5})
except TypeError as error:
    print(error)
request = decode(encode(call_of(tenant="acme")), ["json"])
print(request.headers, fields.own_options(request)["tenant"])
"""


def test_a_new_travelling_option_is_one_row() -> None:
    """Checked, written, read and kept by what is made of the table; tried in a process of its own."""
    done = subprocess.run([sys.executable, "-c", NEW_ROW], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "the option tenant is 5: text of 1 to 255 bytes is needed",
        "{'tenant': 'acme'} acme",
    ]


TEXTS = st.text(max_size=300)
NUMBERS = st.integers() | st.floats() | st.booleans()
TIMES = st.datetimes() | st.datetimes(timezones=st.just(UTC)) | st.timedeltas()
VALUES: dict[str, st.SearchStrategy[Any]] = {
    name: TEXTS | NUMBERS | TIMES | st.none() | st.lists(TEXTS, max_size=2) | st.just(SIGNATURE)
    for name, row in BY_OPTION.items()
    if row.header and name not in {"compression", "link", "link_error", "chain", "chord", "eta", "expires"}
} | {"headers": st.dictionaries(TEXTS | st.sampled_from(["retries", "id", "timelimit"]), TEXTS | NUMBERS)}


@given(st.fixed_dictionaries({}, optional=VALUES))
def test_what_a_caller_may_give_a_worker_reads(options: dict[str, Any]) -> None:
    try:
        check_options(options)
    except (TypeError, ValueError):
        return
    decode(encode(call_of(**options)), ["json"])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"priority": True}, TypeError),
        ({"priority": 300}, ValueError),
        ({"priority": -1}, ValueError),
        ({"time_limit": -1}, ValueError),
        ({"time_limit": "5"}, TypeError),
        ({"time_limit": float("inf")}, ValueError),
        ({"soft_time_limit": float("nan")}, ValueError),
        ({"shadow": 5}, TypeError),
        ({"countdown": "3"}, TypeError),
        ({"countdown": float("nan")}, ValueError),
        ({"countdown": 1e10}, ValueError),
        ({"eta": 1_795_340_628.5}, TypeError),
        ({"eta": "tomorrow"}, ValueError),
        ({"expires": float("inf")}, ValueError),
        ({"expires": timedelta(days=100_000)}, ValueError),
        ({"queue": ""}, ValueError),
        ({"queue": 5}, ValueError),
        ({"queue": "x" * 256}, ValueError),
        ({"task_id": ""}, ValueError),
        ({"task_id": 7}, TypeError),
        ({"task_id": "\u00e9" * 128}, ValueError),
        ({"task_id": "\ud800"}, ValueError),
        ({"headers": {"x": float("nan")}}, ValueError),
        ({"headers": {"x": [{"y": float("inf")}]}}, ValueError),
        ({"headers": {"x": 2**63}}, ValueError),
        ({"headers": {5: "x"}}, ValueError),
        ({"headers": ["x"]}, TypeError),
        ({"headers": {"retries": "x"}}, TypeError),
        ({"headers": {"timelimit": [1]}}, TypeError),
        ({"stamped_headers": ["team"], "team": float("nan")}, ValueError),
        ({"stamped_headers": "team"}, TypeError),
        ({"retries": -1}, ValueError),
        ({"ignore_result": "no"}, TypeError),
        ({"link": 5}, ValueError),
        ({"link": ["add"]}, ValueError),
        ({"chord": [SIGNATURE]}, ValueError),
        ({"delivery_mode": "trasient"}, ValueError),
        ({"retry": "yes"}, TypeError),
        ({"retry_policy": 3}, TypeError),
        ({"retry_policy": {"interval_max": float("inf")}}, ValueError),
        ({"retry_policy": {"interval_maximum": 1}}, TypeError),
        ({"count_down": 3}, TypeError),
    ],
    ids=repr,
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        check_options(options)
    assert next(iter(options)) in str(caught.value) or "team" in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"time_limit": 0, "soft_time_limit": 0.5, "priority": 255, "countdown": -3},
        {"eta": "2035-01-01T00:00:00+02:00", "expires": "2035-01-02"},
        {"expires": timedelta(hours=1), "eta": datetime(2035, 1, 1, tzinfo=UTC)},
        {"link": Signature("add"), "link_error": [SIGNATURE], "chord": Signature("add")},
        {"task_id": "x" * 255, "reply_to": "", "exchange": "", "routing_key": ""},
        {"headers": {"x": [1, 2.5, None, {"y": "z"}], "retries": 3}},
        dict.fromkeys(BY_OPTION),
    ],
    ids=repr,
)
def test_what_can_be_meant_is_taken(options: dict[str, Any]) -> None:
    check_options(options)


def test_a_header_of_the_protocol_must_be_what_it_is_there() -> None:
    with pytest.raises(DecodeError, match="the header retries"):
        fields.check_carried("retries", -1)
