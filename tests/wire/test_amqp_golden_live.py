"""Every golden call over RabbitMQ, sent again: by taskq to a real Celery worker, by a real Celery to a taskq worker."""

import asyncio
import gc
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, NamedTuple

import celery
import pytest
from kombu.compression import encoders

import taskq
from tests.servers import RedisServer, redis_server
from tests.wire.golden_live_app import celery_app, taskq_app
from tests.wire.peers import Peer, Run, peer_of
from tests.wire.test_golden_messages import golden

pytestmark = [
    *(pytest.mark.rabbitmq, pytest.mark.redis, pytest.mark.slow),
    # Celery leaves sockets of its Redis results to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """While the warnings of that are still ignored: in the tests of other modules they are errors."""
    yield
    gc.collect()


class Case(NamedTuple):
    """A call, as both libraries write it; what is run because of it, and what it returns (None: nobody asks)."""

    make: Callable[[Any], Any]
    runs: Sequence[Run]
    result: Any = None
    options: Callable[[], dict[str, Any]] = dict


def add(*runs: int, result: Any = 4, **options: Any) -> Case:
    """`add(2, 2)` with options; the runs are those of `add` that follow."""
    return Case(
        lambda k: k.add.s(2, 2), [["add", 4], *(["add", n] for n in runs)], result, lambda: dict(options)
    )


def echo(args: Sequence[Any], kwargs: Any = None, shown: Sequence[str] | None = None) -> Case:
    result = [list(shown or map(str, args)), kwargs or {}]
    return Case(lambda k: k.echo.s(*args, **(kwargs or {})), [["echo", result]], result)


def linked(make: Callable[[Any], Any], *runs: int) -> Case:
    return Case(make, [["add", n] for n in (4, *runs)], 4)


def later(**more: Callable[[], Any]) -> Case:
    return Case(
        lambda k: k.add.s(2, 2), [["add", 4]], 4, lambda: {name: value() for name, value in more.items()}
    )


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=0.7)


def hour() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


EAST = timezone(timedelta(hours=2))
XSUM = ["xsum", 6]

CASES: dict[str, Case] = {
    "plain": add(),
    "kwargs": Case(lambda k: k.add.s(2, y=3), [["add", 5]], 5),
    "no_args": echo(()),
    "unicode_args": echo(("\u00e9\u4e2d\U0001f600",)),
    "long_args_truncated_repr": echo(("x" * 3000, list(range(2000))), {"k": "y" * 3000}),
    "nested_args_repr_levels": echo(([[[[[1]]]]], {"a": {"b": {"c": {"d": 1}}}})),
    "argsrepr_override": add(argsrepr="<secret>", kwargsrepr="<k>"),
    "countdown": add(countdown=1),
    "countdown_float": add(countdown=1.5),
    "countdown_zero": add(countdown=0),
    "eta_utc": later(eta=soon),
    "eta_tz_aware": later(eta=lambda: soon().astimezone(EAST)),
    "eta_naive": later(eta=lambda: soon().replace(tzinfo=None)),
    "expires_int": add(expires=120),
    "expires_float": add(expires=15.5),
    "expires_datetime_tz": later(expires=lambda: hour().astimezone(EAST)),
    "expires_datetime_naive": later(expires=lambda: hour().replace(tzinfo=None)),
    "expires_past": Case(lambda k: k.add.s(2, 2), [], None, lambda: {"expires": -5}),
    "countdown_and_expires": add(countdown=1, expires=300),
    "link_single": linked(lambda k: k.add.s(2, 2).set(link=k.add.s(10)), 14),
    "link_list": linked(lambda k: k.add.s(2, 2).set(link=[k.add.s(10), k.add.si(1, 1)]), 14, 2),
    "link_error": Case(lambda k: k.fail.s().set(link_error=k.old_errback.s()), [["old_errback", 0]]),
    "link_error_list": Case(
        lambda k: k.fail.s().set(link_error=[k.old_errback.s(), k.old_errback.s()]),
        [["old_errback", 0], ["old_errback", 0]],
    ),
    "link_group": linked(lambda k: k.add.s(2, 2).set(link=k.group(k.add.s(1), k.add.s(2))), 5, 6),
    "link_chain": linked(lambda k: k.add.s(2, 2).set(link=k.chain(k.add.s(1), k.add.s(2))), 5, 7),
    "chain3": Case(
        lambda k: k.chain(k.add.s(2, 2), k.add.s(4), k.add.s(8)), [["add", 4], ["add", 8], ["add", 16]], 16
    ),
    "chain_immutable": Case(lambda k: k.add.s(2, 2) | k.add.si(1, 1), [["add", 4], ["add", 2]], 2),
    "chain_with_options": Case(
        lambda k: k.chain(k.add.s(2, 2), k.add.s(4).set(queue="sink", countdown=1, priority=3)),
        [["add", 4], ["add", 8]],
        8,
    ),
    "chain_link_error": Case(
        lambda k: k.chain(k.fail.s(), k.add.si(4)).on_error(k.old_errback.s()), [["old_errback", 0]]
    ),
    "group3": Case(
        lambda k: k.group(k.add.s(1, 1), k.add.s(2, 2), k.add.s(3, 3)),
        [["add", 2], ["add", 4], ["add", 6]],
        [2, 4, 6],
    ),
    "group_of_chains": Case(
        lambda k: k.group(k.add.s(1, 1) | k.add.s(10), k.add.s(2, 2) | k.add.s(20)),
        [["add", 2], ["add", 12], ["add", 4], ["add", 24]],
        [12, 24],
    ),
    "priority_0": add(priority=0),
    "priority_3": add(priority=3),
    "priority_5": add(priority=5),
    "priority_9": add(priority=9),
    "queue": add(queue="other"),
    "queue_object_direct": add(queue="q1"),
    "queue_object_topic": add(queue="q2", routing_key="a.b.c"),
    "exchange_and_routing_key": add(exchange="celery", routing_key="celery"),
    "serializer_json": add(serializer="json"),
    "serializer_pickle": add(serializer="pickle"),
    "serializer_yaml": add(serializer="yaml"),
    "serializer_msgpack": add(serializer="msgpack"),
    "compression_zlib": add(compression="zlib"),
    "compression_gzip": add(compression="gzip"),
    "compression_bzip2": add(compression="bzip2"),
    "compression_lzma": add(compression="lzma"),
    "compression_brotli": add(compression="brotli"),
    "compression_zstd": add(compression="zstd"),
    "pickle_and_zlib": add(serializer="pickle", compression="zlib"),
    "headers": add(headers={"x-tenant": "acme", "n": 1}),
    "ignore_result": add(ignore_result=True, result=None),
    "time_limits": add(time_limit=30, soft_time_limit=20.5),
    "retries": add(retries=2),
    "shadow": add(shadow="pretty.name"),
    "root_and_parent": later(root_id=lambda: str(uuid.uuid4()), parent_id=lambda: str(uuid.uuid4())),
    "stamps": add(stamped_headers=["tenant", "ids"], tenant="acme", ids=[1, 2]),
    "delivery_mode_transient": add(delivery_mode=1),
    "reply_to": add(reply_to="my-replies"),
    "extra_properties": add(),  # those of Celery alone are added below
    "xmap": Case(lambda k: k.xsum.map([[1, 2], [3, 4]]), [["xsum", 3], ["xsum", 7]], [3, 7]),
    "xstarmap": Case(lambda k: k.add.starmap([(1, 2), (3, 4)]), [["add", 3], ["add", 7]], [3, 7]),
    "chunks": Case(
        lambda k: k.add.chunks([(1, 2), (3, 4), (5, 6)], 2),
        [["add", 3], ["add", 7], ["add", 11]],
        [[3, 7], [11]],
    ),
    "json_types": echo(
        (
            *(datetime(2035, 6, 1, 12, tzinfo=UTC), date(2035, 6, 1), time(12, 30, 1, 5)),
            *(Decimal("1.10"), uuid.UUID(int=5), b"abc", b"\xff\x00", (1, 2), None, True, 1.5),
        ),
        shown=(
            *("2035-06-01 12:00:00+00:00", "2035-06-01", "12:30:01.000005"),
            *("1.10", str(uuid.UUID(int=5)), "b'abc'", "b'\\xff\\x00'", "[1, 2]", "None", "True", "1.5"),
        ),
    ),
    "chord": Case(
        lambda k: k.chord([k.add.s(0, 1), k.add.s(0, 2), k.add.s(0, 3)], k.xsum.s()),
        [["add", 1], ["add", 2], ["add", 3], XSUM],
        6,
    ),
    "group_then_task_upgrades_to_chord": Case(
        lambda k: k.group(k.add.s(1, 1), k.add.s(2, 2)) | k.xsum.s(), [["add", 2], ["add", 4], XSUM], 6
    ),
    "chain_group_task": Case(
        lambda k: k.add.s(0, 1) | k.group(k.add.s(1), k.add.s(3)) | k.xsum.s(),
        [["add", 1], ["add", 2], ["add", 4], XSUM],
        6,
    ),
    "chord_body_chain": Case(
        lambda k: k.chord([k.add.s(1, 1), k.add.s(2, 2)], k.xsum.s() | k.add.s(5)),
        [["add", 2], ["add", 4], XSUM, ["add", 11]],
        11,
    ),
    "chord_link_error": Case(
        lambda k: k.chord([k.add.s(1, 1), k.fail.s()], k.xsum.s().on_error(k.old_errback.s())),
        [["add", 2], ["old_errback", 0]],
    ),
}
#: Options that Celery passes on as properties and taskq refuses: an unknown option is an error there.
ONLY_CELERY = {"extra_properties": {"app_id": "my-app"}}


def test_no_golden_call_is_left_out() -> None:
    recorded = {
        record["case"] for file in ("messages_amqp", "messages_amqp_chords") for record in golden(file)
    }
    assert recorded == CASES.keys()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def celery_worker(
    amqp_url: str, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Peer]:
    with peer_of(amqp_url, redis.url, tmp_path_factory.mktemp("celery")) as peer, peer.celery():
        yield peer


@pytest.fixture(scope="module")
def taskq_worker(
    amqp_url: str, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Peer]:
    with peer_of(amqp_url, redis.url, tmp_path_factory.mktemp("taskq")) as peer, peer.taskq():
        yield peer


def kit(app: Any, library: Any) -> SimpleNamespace:
    """What the cases are written with: the tasks of an app, and the canvases of its library."""
    tasks = {name.removeprefix("golden."): task for name, task in app.tasks.items() if "golden." in name}
    return SimpleNamespace(**tasks, chain=library.chain, group=library.group, chord=library.chord)


def skip_what_is_missing(case: str) -> None:
    if case == "compression_zstd" and "application/zstd" not in encoders():
        pytest.skip("kombu finds no zstd here")


@pytest.fixture
async def client(celery_worker: Peer) -> AsyncIterator[taskq.TaskQ]:
    async with taskq_app(celery_worker.broker, celery_worker.backend) as app:
        yield app


@pytest.fixture(scope="module")
def celery_client(taskq_worker: Peer) -> Iterator[celery.Celery]:
    app = celery_app(taskq_worker.broker, taskq_worker.backend)
    yield app
    app.backend.result_consumer.stop()
    app.backend.client.connection_pool.disconnect()
    app.close()


@pytest.mark.parametrize("name", CASES)
async def test_taskq_sends_and_celery_runs(celery_worker: Peer, client: taskq.TaskQ, name: str) -> None:
    skip_what_is_missing(name)
    case = CASES[name]
    sent = await case.make(kit(client, taskq)).apply_async(**case.options())
    await finished(celery_worker, case, lambda: sent.get(timeout=20))


@pytest.mark.parametrize("name", CASES)
async def test_celery_sends_and_taskq_runs(
    taskq_worker: Peer, celery_client: celery.Celery, name: str
) -> None:
    skip_what_is_missing(name)
    case = CASES[name]

    def send() -> Any:
        options = case.options() | ONLY_CELERY.get(name, {})
        return case.make(kit(celery_client, celery)).apply_async(**options)

    sent = await asyncio.to_thread(send)
    await finished(taskq_worker, case, lambda: asyncio.to_thread(sent.get, timeout=20))


async def finished(peer: Peer, case: Case, get: Callable[[], Awaitable[Any]]) -> None:
    await peer.expect(case.runs)
    if case.result is not None:
        assert await get() == case.result
