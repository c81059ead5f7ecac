"""The real kombu and celery read what we write, and we read what they write: no server, their own code."""

import itertools
import json
import math
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import celery.worker.state
import celery.worker.strategy
import kombu
import kombu.compression
import pytest
from celery import Celery
from celery.worker.request import Request as CeleryRequest
from kombu.transport.virtual import Message as KombuMessage
from kombu.utils import json as kombu_json

from taskq.wire import envelope
from taskq.wire.message import Message
from taskq.wire.protocol import Call, decode, encode
from taskq.wire.serializers import get_serializer
from tests.calls import call_of

SERIALIZERS = ("json", "pickle", "yaml", "msgpack")
COMPRESSIONS = (
    None,
    *(name for name in ("zlib", "bzip2", "lzma", "brotli", "zstd") if name in kombu.compression._aliases),
)
FORMS = pytest.mark.parametrize(
    ("serializer", "compression"), list(itertools.product(SERIALIZERS, COMPRESSIONS))
)
VALUES = [1, -2.5, "text \u00e9\U0001f600", None, True, [1, [2]], {"a": {"b": []}}, 2**53]
EXTENDED = [
    datetime(2035, 6, 1, 12, tzinfo=UTC),
    datetime(2035, 6, 1, 12, tzinfo=UTC).replace(tzinfo=None),
    date(2035, 6, 1),
    time(12, 30, 1, 5),
    Decimal("1.10"),
    uuid.UUID(int=5),
    b"abc",
    b"\xff\x00",
    {"deep": [{"x": Decimal("NaN")}]},
    math.inf,
    2**70,
    "\ud800",
]


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("t", broker="memory://", set_as_current=False)
    app.conf.accept_content = list(SERIALIZERS)
    app.conf.task_default_queue = f"wire-{uuid.uuid4().hex}"
    app.task(echo, name="wire.echo")
    yield app
    app.close()


def echo(*args: Any, **kwargs: Any) -> None: ...


@pytest.fixture
def channel(app: Celery) -> Iterator[Any]:
    with app.connection_for_write() as connection:
        yield connection.default_channel


def call(serializer: str, args: list[Any], **options: Any) -> Call:
    return call_of(
        task="wire.echo",
        id=str(uuid.uuid4()),
        args=args,
        kwargs={"k": args[0]},
        serializer=get_serializer(serializer),
        origin="gen1@host.example",
        **options,
    )


def read_by_kombu(channel: Any, raw: bytes) -> KombuMessage:
    """What kombu's Redis transport does with a list entry."""
    return KombuMessage(payload=kombu_json.loads(raw), channel=channel)


def received_by_celery(app: Celery, message: KombuMessage) -> CeleryRequest:
    """The request that a Celery worker makes of a message."""
    message.accept = set(kombu.serialization.prepare_accept_content(SERIALIZERS))
    return CeleryRequest(message, app=app, task=app.tasks["wire.echo"], body=message.body, decoded=False)


def publish_by_celery(app: Celery, args: list[Any], **options: Any) -> bytes:
    """What Celery's own producer puts into a queue of the in-memory transport."""
    queue = app.conf.task_default_queue
    app.send_task("wire.echo", args=args, kwargs={"k": args[0]}, queue=queue, **options)
    with app.connection_for_read() as connection:
        raw = connection.default_channel._get(queue)
    return json.dumps(raw).encode()


@FORMS
@pytest.mark.parametrize("body_encoding", ["auto", "base64"])
def test_celery_reads_ours(
    app: Celery, channel: Any, serializer: str, compression: str | None, body_encoding: str
) -> None:
    args = VALUES + (EXTENDED if serializer in {"json", "pickle"} else [])
    sent = call(serializer, args, compression=compression, headers={"x-tenant": "acme"}, retries=3)
    raw = envelope.dumps(encode(sent), delivery_tag="tag", body_encoding=body_encoding)
    message = read_by_kombu(channel, raw)
    request = received_by_celery(app, message)
    assert repr(list(request.args)) == repr(args)
    assert request.kwargs == {"k": 1}
    assert (request.id, request.name, request.argsrepr) == (
        sent.id,
        "wire.echo",
        encode(sent).headers["argsrepr"],
    )
    assert (message.headers["x-tenant"], request.request_dict["retries"]) == ("acme", 3)
    assert message.delivery_tag == "tag"


@FORMS
def test_we_read_celerys(app: Celery, serializer: str, compression: str | None) -> None:
    args = VALUES + (EXTENDED if serializer in {"json", "pickle"} else [])
    raw = publish_by_celery(
        app, args, serializer=serializer, compression=compression, headers={"x-tenant": "acme"}, retries=3
    )
    request = decode(envelope.loads(raw), [serializer])
    assert repr(list(request.args)) == repr(args)
    assert (request.kwargs, request.headers, request.retries) == ({"k": 1}, {"x-tenant": "acme"}, 3)


def test_celery_sees_our_times_and_limits(app: Celery, channel: Any) -> None:
    due = datetime(2035, 6, 1, 14, tzinfo=UTC)
    sent = call("json", [1], eta=due, expires=due + timedelta(hours=1), time_limit=30, soft_time_limit=20.5)
    request = received_by_celery(app, read_by_kombu(channel, envelope.dumps(encode(sent), delivery_tag="t")))
    assert (request.eta, request.expires) == (due, due + timedelta(hours=1))
    assert request.time_limits == [30, 20.5]
    assert not request.maybe_expire()


def test_celerys_worker_takes_our_message_in(app: Celery, channel: Any) -> None:
    """The whole of a worker's reception: strategy, request, handing over to the pool."""
    handed: list[Any] = []

    strategy = celery.worker.strategy.default(app.tasks["wire.echo"], app, _Consumer(app, handed))
    message = read_by_kombu(channel, envelope.dumps(encode(call("json", [1, 2])), delivery_tag="t"))
    message.accept = {"application/json"}
    strategy(message, None, lambda: None, lambda *_: None, [])
    assert [(list(request.args), request.kwargs) for request in handed] == [([1, 2], {"k": 1})]


class _Consumer:
    """The few names of celery's consumer that its task strategy asks for."""

    def __init__(self, app: Celery, handed: list[Any]) -> None:
        self.app = app
        self.hostname = "w@host.example"
        self.connection_errors = ()
        self.event_dispatcher = None
        self.task_buckets: dict[str, Any] = {"wire.echo": None}
        self.controller = type("Controller", (), {"state": celery.worker.state})()
        self.on_task_request = handed.append
        self.disable_rate_limits = True
        self.initial_prefetch_count = 1
        self.pool = type("Pool", (), {"apply_async": None})()
        self.timer = type("Timer", (), {"call_at": None})()
        self.apply_eta_task = self._limit_task = self._limit_post_eta = None


def test_the_body_is_the_one_that_celerys_decoder_gives(channel: Any) -> None:
    message = encode(call("json", EXTENDED))
    theirs = kombu.serialization.loads(message.body, message.content_type, message.content_encoding)
    assert repr(theirs[0]) == repr(EXTENDED)


def test_a_message_of_ours_restored_by_celery_is_read_again() -> None:
    payload = kombu_json.loads(envelope.dumps(encode(call("json", [1])), delivery_tag="t"))
    payload["headers"]["redelivered"] = True  # kombu's restore: marks, and writes anew
    payload["properties"]["delivery_info"]["redelivered"] = True
    request = decode(envelope.loads(kombu_json.dumps(payload).encode()), ["json"])
    assert (request.args, request.delivery_info["redelivered"]) == ([1], True)


def test_celerys_message_without_a_body_encoding_is_read() -> None:
    raw = json.loads(envelope.dumps(encode(call("json", [1])), delivery_tag="t"))
    del raw["properties"]["body_encoding"]
    assert isinstance(envelope.loads(json.dumps(raw).encode()), Message)
