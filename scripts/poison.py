"""The poison matrix: each header, property, part of the body and callback option with each odd value, good tasks between.

    python -m scripts.poison [sqlite|redis|amqp] [--every N]

It sends them to a worker of its own and tells whether every message was settled, all good tasks ran and how much memory that
took; its exit code is 1 if not. Redis and RabbitMQ are those of TASKQ_TEST_REDIS and TASKQ_TEST_AMQP: queues and keys have names
of their own. `--every N` takes each N-th message of the matrix.
"""

import argparse
import asyncio
import json
import logging
import os
import resource
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, product
from typing import Any

from redis import Redis

from taskq import TaskQ
from taskq.errors import TaskqError
from taskq.testing import start_worker
from taskq.wire.message import Message

NAN, INF = float("nan"), float("inf")
#: 59 values that no sender of good will has.
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 255, 256, 2**31 - 1, 2**31, -(2**31), 2**53, 2**63 - 1, 2**63, 2**64),
    *(10**30, 10**400, -(10**400), 0.0, -0.0, 0.5, -1.5, 1e300, -1e300, 5e-324, NAN, INF, -INF),
    *(
        "",
        " ",
        "x",
        "\0",
        "\n",
        "\ud800",
        "\U0001f600",
        "é" * 300,
        "x" * 70_000,
        "../../etc/passwd",
        "%s%n{}",
    ),
    *(
        "2026-13-45T99:99:99",
        "0001-01-01T00:00:00",
        "9999-12-31T23:59:59+14:00",
        "application/json",
        "1" * 500,
    ),
    *([], [[]], [None], ["a", 1], [{}], list(range(2000)), [[[[[[[[]]]]]]]], {}, {"a": 1}, {"": None}),
    *({"task": "poison.good"}, {"task": 5}, {"__type__": "uuid", "__value__": 1}, {"taskq-signature": "x"}),
)
HEADERS = (
    *("lang", "task", "id", "shadow", "eta", "expires", "group", "group_index", "retries", "timelimit"),
    *("root_id", "parent_id", "argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting"),
    *(
        "stamped_headers",
        "stamps",
        "compression",
        "redelivered",
        "meth",
        "x-death",
        "x-delivery-count",
        "mine",
    ),
)
PROPERTIES = ("correlation_id", "reply_to", "content_type", "content_encoding", "priority", "delivery_mode")
EMBED = ("callbacks", "errbacks", "chain", "chord")
FIELDS = ("task", "args", "kwargs", "options", "subtask_type", "immutable", "chord_size")
OPTIONS = (
    *("task_id", "root_id", "parent_id", "group_id", "group_index", "chord", "chain", "link", "link_error"),
    *("queue", "exchange", "routing_key", "priority", "countdown", "eta", "expires", "retries", "retry"),
    *("retry_policy", "serializer", "compression", "headers", "shadow", "time_limit", "soft_time_limit"),
    *("reply_to", "correlation_id", "delivery_mode", "ignore_result", "stamped_headers", "argsrepr"),
    *("kwargsrepr", "replaced_task_nesting"),
)
ENDS = ("poison.good", "poison.bad")
#: What a worker may take for all of it, in MB.
MOST_MB = 60
BATCH = 200


def matrix() -> Iterator[Message]:
    """All of them, each with an id of its own unless the id is the odd one."""
    yield from (_message(headers={name: odd}) for name, odd in product(HEADERS, ODD))
    yield from (_with_property(name, odd) for name, odd in product(PROPERTIES, ODD))
    yield from (_message(body=_body(place, odd)) for place, odd in product(range(3), ODD))
    yield from (_message({"task": end}, [[1], {}, {key: odd}]) for end, key, odd in product(ENDS, EMBED, ODD))
    for end, key, (field, odd) in product(ENDS, EMBED, product(FIELDS, ODD)):
        yield _linked(end, key, {"task": "poison.good", field: odd})
    for end, key, (option, odd) in product(ENDS, EMBED, product(OPTIONS, ODD)):
        yield _linked(end, key, {"task": "poison.good", "options": {option: odd}})


def _body(place: int, odd: Any) -> list[Any]:
    parts: list[Any] = [[1], {}, None]
    parts[place] = odd
    return parts


def _linked(end: str, key: str, signature: dict[str, Any]) -> Message:
    return _message({"task": end}, [[1], {}, {key: signature if key == "chord" else [signature]}])


def _message(headers: dict[str, Any] | None = None, body: Any = ((1,), {}, None)) -> Message:
    own = {"task": "poison.good", "id": str(uuid.uuid4()), **(headers or {})}
    return Message(own, json.dumps(body).encode(), routing_key="poison")


def _with_property(name: str, odd: Any) -> Message:
    change: dict[str, Any] = {name: odd}
    return replace(_message(), **change)


def make_app(broker: str, folder: str) -> TaskQ:
    """An app with queues and keys of its own."""
    mark = uuid.uuid4().hex[:8]
    redis = os.environ.get("TASKQ_TEST_REDIS", "redis://127.0.0.1:6379") + "/9"
    amqp = os.environ.get("TASKQ_TEST_AMQP", "amqp://guest:guest@127.0.0.1:5672")
    url = {"sqlite": f"sqlite:///{folder}/poison.db", "redis": redis, "amqp": amqp}[broker]
    options = {"global_keyprefix": f"poison-{mark}:"} if broker == "redis" else {}
    app = TaskQ(
        "poison",
        broker=url,
        backend="memory://poison" if broker == "amqp" else url,
        broker_transport_options=options,
        result_backend_transport_options=options,
        task_default_queue="poison" if broker != "amqp" else f"poison-{mark}",
        task_create_missing_queues=False,
        result_expires=600,
        dead_retention=600,
    )
    app.task(name="poison.good")(_good)
    app.task(name="poison.bad")(_bad)
    return app


async def _good(*_: Any, **__: Any) -> int:
    return 1


async def _bad(*_: Any, **__: Any) -> None:
    raise KeyError("as always")


async def run(app: TaskQ, every: int) -> list[str]:
    """What did not hold; empty if all did."""
    sent = unsendable = 0
    queue = app.conf.task_default_queue
    async with app:
        broker = await app.open_broker()
        async with start_worker(app, queues=[queue]):
            before = _megabytes()
            messages = islice(matrix(), 0, None, every)
            while batch := list(islice(messages, BATCH)):
                for message in batch:
                    try:
                        await broker.publish([replace(message, routing_key=queue)])
                        sent += 1
                    except (TaskqError, ValueError, TypeError, OverflowError, AttributeError):
                        unsendable += 1  # no broker carries it: refused at the caller, which is as good
                await (await app.send_task("poison.good", queue=queue)).get(timeout=120)
                # Taken out of the dead letters and sent nowhere: there are to be no more than a batch of them.
                await broker.revive([one.id for one in await broker.dead(10_000) if one.queue == queue])
            grown = _megabytes() - before
    async with app:  # the worker has stopped, and given back what it had not settled
        broker = await app.open_broker()
        left = await broker.size(queue)
        await broker.purge(queue)
        _clear(app)
    print(
        f"{sent} messages sent, {unsendable} refused at the caller, {left} left, {grown:.0f} MB more memory"
    )
    return [
        *([f"{left} messages are left"] if left else []),
        *([f"{grown:.0f} MB, more than {MOST_MB}"] if grown > MOST_MB else []),
    ]


def _clear(app: TaskQ) -> None:
    """Remove the keys of this run: messages of odd queues that follow odd callbacks wait there for nobody."""
    prefix = app.conf.broker_transport_options.get("global_keyprefix")
    if prefix:
        with Redis.from_url(app.conf.broker_url) as redis:
            for key in redis.scan_iter(f"{prefix}*", count=1000):
                redis.delete(key)


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("broker", nargs="?", choices=("sqlite", "redis", "amqp"), default="sqlite")
    parser.add_argument("--every", type=int, default=1, metavar="N")
    asked = parser.parse_args()
    logging.disable()  # each of them is told of by the worker
    print(f"{sum(1 for _ in matrix())} messages in the matrix")
    with tempfile.TemporaryDirectory() as folder:
        problems = asyncio.run(run(make_app(asked.broker, folder), asked.every))
    print("\n".join(problems) or "held")
    return bool(problems)


if __name__ == "__main__":
    raise SystemExit(main())
