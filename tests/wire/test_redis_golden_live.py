"""Every golden message, run: those a Celery client wrote by a taskq worker, the same calls of ours by a Celery worker.

One worker of each kind, each on a Redis of its own, runs all cases; the results are read by the other side's client.
"""

import asyncio
import json
import os
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from celery import Celery
from kombu import compression
from kombu.utils import json as kombu_json

from taskq import TaskQ
from taskq.seams.broker import BrokerConfig, open_broker
from taskq.seams.store import StoreConfig, open_store
from taskq.wire import envelope
from taskq.wire.message import Message
from taskq.wire.protocol import encode
from tests.polling import eventually, eventually_sync
from tests.servers import RedisServer, redis_server
from tests.wire.test_golden_messages import CASES, golden, instant, same_call

pytestmark = [pytest.mark.redis, pytest.mark.slow]

QUEUES = "celery,other,q1,q2,sink"
CONTENT = ["json", "pickle", "yaml", "msgpack"]
TASKS = """
import json, os
import redis
from celery import Celery
from kombu import Exchange, Queue
from taskq import TaskQ

url = os.environ["LIVE_URL"]
if os.environ["LIVE_SIDE"] == "celery":
    app = Celery("golden", broker=url, backend=url)
    names = ["celery", "other", "q1", "sink"]
    app.conf.task_queues = [
        *(Queue(name, Exchange(name), name) for name in names), Queue("q2", Exchange("ex2", "topic"), "a.#")
    ]
else:
    app = TaskQ("golden", broker=url, backend=url)
app.conf.accept_content = {content!r}
kept = redis.Redis.from_url(url)

def keep(task, result):
    kept.rpush(f"runs:{task.request.root_id}", json.dumps(result))
    return result

@app.task(name="golden.add", bind=True)
def add(self, x, y=0, z=0):
    return keep(self, x + y + z)

@app.task(name="golden.echo", bind=True)
def echo(self, *args, **kwargs):
    keep(self, "echo")
    return [args, kwargs]

@app.task(name="golden.xsum", bind=True)
def xsum(self, numbers, extra=0):
    return keep(self, sum(numbers) + extra)

@app.task(name="golden.old_errback")
def old_errback(*args):
    kept.rpush("errbacks", "old")

@app.task(name="golden.new_errback")
def new_errback(*args):
    kept.rpush("errbacks", "new")
""".replace("{content!r}", repr(CONTENT))

ECHOES = ("no_args", "unicode_args", "long_args_truncated_repr", "nested_args_repr_levels", "json_types")

#: What the tasks of a case return, follow-ups included, sorted; of all others that is [4].
RUNS: dict[str, list[Any]] = {
    **{name: ["echo"] for name in ECHOES},
    "expires_past": [],
    "kwargs": [5],
    "link_single": [4, 14],
    "link_list": [2, 4, 14],
    "link_group": [4, 5, 6],
    "link_chain": [4, 5, 7],
    "chain3": [4, 8, 16],
    "chain_immutable": [2, 4],
    "chain_with_options": [4, 8],
    "chain_link_error": [4, 8],
    "group3": [2, 4, 6],
    "group_of_chains": [2, 4, 12, 24],
    "exchange_and_routing_key": [4, 4],
    "chord": [2, 4, 6, 12],
    "group_then_task_upgrades_to_chord": [2, 4, 6],
    "chain_group_task": [2, 3, 4, 7],
    "chord_body_chain": [2, 4, 6, 11],
    "chord_link_error": [2, 4, 6],
}
#: What the messages return whose inner runs are no tasks of their own.
VALUES: dict[str, list[Any]] = {
    "xmap": [[3, 7]],
    "xstarmap": [[3, 7]],
    "chunks": [[3, 7], [11]],
}
NAMES = [record["case"] for record in golden("messages_redis")]


class Sent(NamedTuple):
    """A case on its way: the messages as Celery wrote them, its times moved to now."""

    case: str
    envelopes: list[dict[str, Any]]

    @property
    def ids(self) -> list[str]:
        return [envelope["headers"]["id"] for envelope in self.envelopes]

    @property
    def roots(self) -> set[str]:
        return {envelope["headers"]["root_id"] for envelope in self.envelopes}

    @property
    def chords(self) -> dict[str, int]:
        """Group id and size, where these are the members of a chord."""
        bodies = [json.loads(self.body(n)) for n in range(len(self.envelopes)) if self.readable(n)]
        groups = [one["headers"]["group"] for one in self.envelopes]
        return {groups[0]: len(groups)} if bodies and bodies[0][2]["chord"] else {}

    def readable(self, number: int) -> bool:
        envelope = self.envelopes[number]
        return envelope["content-type"] == "application/json" and "compression" not in envelope["headers"]

    def body(self, number: int) -> bytes:
        return b64decode(self.envelopes[number]["body"])


def moved(text: str, by: float) -> str:
    """A time in the same form, that many seconds from now."""
    zone = datetime.fromisoformat(text).tzinfo
    then = datetime.now(UTC) + timedelta(seconds=by)
    return (then.astimezone(zone) if zone else then.replace(tzinfo=None)).isoformat()


def prepared() -> dict[str, Sent]:
    found = {}
    for record in golden("messages_redis"):
        envelopes = [json.loads(text) for text in reversed(record["messages"])]
        for one in envelopes:
            headers = one["headers"]
            if headers["eta"]:
                headers["eta"] = moved(headers["eta"], 0.5)
            if headers["expires"]:
                headers["expires"] = moved(
                    headers["expires"], -5 if record["case"] == "expires_past" else 600
                )
        found[record["case"]] = Sent(record["case"], envelopes)
    return found


@contextmanager
def running(side: str, server: RedisServer, folder: Path, *command: str) -> Iterator[Path]:
    (folder / "live_tasks.py").write_text(TASKS)
    root = str(Path(__file__).parent.parent.parent)
    environment = os.environ | {
        "LIVE_URL": server.url,
        "LIVE_SIDE": side,
        "PYTHONPATH": os.pathsep.join((str(folder), root)),
        "PYTHONWARNINGS": "ignore",
        "C_FORCE_ROOT": "1",  # Celery takes pickles as root only when told to
    }
    output = folder / "worker.log"
    with output.open("ab") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", *command], env=environment, cwd=folder, stdout=log, stderr=log
        )
    try:
        eventually_sync(lambda: "ready." in output.read_text())
        yield output
    finally:
        worker.kill()
        worker.wait()


# == from Celery to taskq


@pytest.fixture(scope="module")
def celery_client() -> Iterator[Celery]:
    app = Celery("client")
    yield app
    app.close()


@pytest.fixture(scope="module")
def to_taskq(
    tmp_path_factory: pytest.TempPathFactory, celery_client: Celery
) -> Iterator[tuple[RedisServer, dict[str, Sent]]]:
    folder = tmp_path_factory.mktemp("to_taskq")
    command = ("taskq", "worker", "-A", "live_tasks", "-Q", QUEUES, "-l", "info")
    with redis_server(folder) as server, running("taskq", server, folder, *command):
        celery_client.conf.update(broker_url=server.url, result_backend=server.url)
        cases = prepared()
        with server.client() as client:
            for sent in cases.values():
                for group_id, size in sent.chords.items():
                    celery_client.backend.set_chord_size(group_id, size)
                for one in sent.envelopes:
                    about = one["properties"]["delivery_info"]
                    queue = "q2" if about["exchange"] == "ex2" else about["routing_key"]
                    step = one["properties"]["priority"] // 3 * 3
                    client.lpush(f"{queue}\x06\x16{step}" if step else queue, json.dumps(one))
        yield server, cases


@pytest.mark.parametrize("case", NAMES)
def test_what_celery_sent_taskq_runs_and_celery_reads(
    to_taskq: tuple[RedisServer, dict[str, Sent]], celery_client: Celery, case: str
) -> None:
    server, cases = to_taskq
    sent = cases[case]
    check_runs(server, sent)
    results = [celery_client.AsyncResult(task_id) for task_id in sent.ids]
    if case == "expires_past":
        eventually_sync(lambda: results[0].state == "REVOKED")
    elif case == "ignore_result":
        assert results[0].state == "PENDING"
    else:
        eventually_sync(lambda: all(result.state == "SUCCESS" for result in results))
        check_values(sent, [result.result for result in results])


# == from taskq to Celery


def written(sent: Sent) -> list[Message]:
    """The same calls, as we write them; canvases as they were read."""
    theirs = [envelope.loads(json.dumps(one).encode()) for one in sent.envelopes]
    if sent.case not in CASES:
        return theirs
    eta, expires = (instant(theirs[0].headers[name]) for name in ("eta", "expires"))
    call = same_call(sent.case, theirs[0])
    return [encode(replace(call, options={**call.options, "eta": eta, "expires": expires}))]


def runs_in_celery(case: str) -> bool:
    """kombu's zstd wants a package of its own."""
    return case != "compression_zstd" or "application/zstd" in compression.encoders()


@pytest.fixture(scope="module")
def to_celery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RedisServer, dict[str, Sent]]]:
    folder = tmp_path_factory.mktemp("to_celery")
    command = ["celery", "-A", "live_tasks", "worker", "--pool", "threads", "-c", "4", "-Q", QUEUES]
    command += ["-l", "INFO", "--without-gossip", "--without-mingle"]
    with redis_server(folder) as server, running("celery", server, folder, *command):
        cases = {case: sent for case, sent in prepared().items() if runs_in_celery(case)}
        asyncio.run(publish(server, cases))
        yield server, cases


async def publish(server: RedisServer, cases: dict[str, Sent]) -> None:
    broker, store = open_broker(BrokerConfig(server.url)), open_store(StoreConfig(server.url))
    await broker.open()
    await store.open()
    for sent in cases.values():
        await store.begin_chords(sent.chords)
        await broker.publish(written(sent))
    await broker.close()
    await store.close()


@pytest.mark.parametrize("case", NAMES)
async def test_what_taskq_sent_celery_runs_and_taskq_reads(
    to_celery: tuple[RedisServer, dict[str, Sent]], case: str
) -> None:
    server, cases = to_celery
    if case not in cases:
        pytest.skip("kombu here has no zstd")
    sent = cases[case]
    await asyncio.to_thread(check_runs, server, sent)
    async with TaskQ("client", broker=server.url, backend=server.url) as app:
        results = [app.AsyncResult(task_id) for task_id in sent.ids]
        if case == "expires_past":

            async def revoked() -> bool:
                return (await results[0].refresh()).state == "REVOKED"

            await eventually(revoked)
        elif case == "ignore_result":
            assert (await results[0].refresh()).state == "PENDING"
        else:
            check_values(sent, [await result.get(timeout=20) for result in results])


# == both


def check_runs(server: RedisServer, sent: Sent) -> None:
    if sent.case in VALUES:
        return
    expected = RUNS.get(sent.case, [4])

    def found() -> list[Any]:
        with server.client() as client:
            return sorted(
                json.loads(run) for root in sent.roots for run in client.lrange(f"runs:{root}", 0, -1)
            )

    eventually_sync(lambda: len(found()) >= len(expected))
    assert found() == expected


def check_values(sent: Sent, values: list[Any]) -> None:
    if sent.case in VALUES:
        assert values == VALUES[sent.case]
    elif sent.case in ECHOES:
        args, kwargs, _ = kombu_json.loads(sent.body(0).decode())
        assert values == [[args, kwargs]]
    else:
        assert set(map(str, values)) <= set(map(str, RUNS.get(sent.case, [4])))
