"""Probes, metrics and heartbeats of a real worker, asked over HTTP and from its own thread."""

import asyncio
import json
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from taskq import TaskQ
from taskq.broker_adapters.memory.broker import MemoryBroker
from taskq.errors import ConfigError
from taskq.worker import Worker
from taskq.worker.health.http import HttpServer, parse_bind
from taskq.worker.health.notify import Notifier
from tests.harness import running
from tests.polling import eventually


@pytest.fixture
def app(request: pytest.FixtureRequest) -> TaskQ:
    url = f"memory://{request.node.name}"
    app = TaskQ("seen", broker=url, backend=url, http_bind="0", health_patience=0.5)

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    @app.task
    async def fail() -> None:
        raise ValueError("no")

    return app


@pytest.fixture
async def worker(app: TaskQ) -> AsyncIterator[Worker]:
    async with running(app) as worker:
        yield worker


def server_of(worker: Worker) -> HttpServer:
    assert worker._parts is not None
    assert worker._parts.probes is not None
    assert worker._parts.probes.server is not None
    return worker._parts.probes.server


def url_of(worker: Worker, path: str) -> str:
    host, port = server_of(worker).address
    return f"http://{host}:{port}{path}"


def fetch(url: str, method: str = "GET") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def ask(worker: Worker, path: str, method: str = "GET") -> tuple[int, str]:
    return await asyncio.to_thread(fetch, url_of(worker, path), method)


async def is_ready(worker: Worker) -> bool:
    return (await ask(worker, "/ready"))[0] == 200


async def test_live_and_ready(worker: Worker) -> None:
    await eventually(lambda: is_ready(worker))
    assert await ask(worker, "/live") == (200, "ok\n")
    assert (await ask(worker, "/ready", "HEAD")) == (200, "")
    assert (await ask(worker, "/other"))[0] == 404
    assert (await ask(worker, "/live", "POST"))[0] == 501


async def test_metrics_tell_what_happened(app: TaskQ, worker: Worker) -> None:
    await eventually(lambda: is_ready(worker))
    name = next(name for name in app.tasks if name.endswith(".add"))
    assert await (await app.send_task(name, (1, 2))).get(timeout=5) == 3
    with pytest.raises(ValueError, match="no"):
        await (await app.send_task(name.replace(".add", ".fail"))).get(timeout=5)
    with pytest.raises(Exception, match="nowhere"):
        await (await app.send_task("nowhere")).get(timeout=5)
    status, text = await ask(worker, "/metrics")
    assert status == 200
    seen = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert seen["taskq_tasks_total", "succeeded", name] == 1
    assert seen["taskq_tasks_total", "received", name] == 1
    assert seen["taskq_tasks_total", "failed", name.replace(".add", ".fail")] == 1
    assert seen["taskq_dead_letters_total", "celery"] == 1
    assert seen["taskq_task_runtime_seconds_count", name] == 1
    assert seen["taskq_task_wait_seconds_count", name] == 1
    assert seen["taskq_live",] == seen["taskq_ready",] == seen["taskq_broker_up",] == 1
    assert seen["taskq_room",] > 0


async def test_status_is_json_without_arguments(app: TaskQ, worker: Worker) -> None:
    await eventually(lambda: is_ready(worker))
    release = asyncio.Event()

    @app.task(name="held")
    async def held(secret: str) -> None:
        await release.wait()

    result = await held.delay("canary")
    await eventually(lambda: len(worker.running) == 1)
    _, text = await ask(worker, "/status")
    data: dict[str, Any] = json.loads(text)
    assert [(run["id"], run["task"]) for run in data["running"]] == [(result.id, "held")]
    assert data["node"] == worker.hostname
    assert data["queues"] == ["celery"]
    assert data["problems"] == []
    assert "canary" not in text
    release.set()
    await result.get(timeout=5)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8787", 200),
        ("10.1.2.3", 200),
        ("[::1]:8787", 200),
        ("localhost:8787", 200),
        (socket.gethostname(), 200),
        ("rebound.example.org:8787", 403),
        ("localhost.example.org", 403),
    ],
)
async def test_a_page_of_another_name_does_not_see_the_status(worker: Worker, host: str, status: int) -> None:
    request = urllib.request.Request(url_of(worker, "/status?x=1"), headers={"Host": host})

    def ask() -> int:
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    assert await asyncio.to_thread(ask) == status
    live = urllib.request.Request(url_of(worker, "/metrics"), headers={"Host": host})
    with urllib.request.urlopen(live, timeout=5) as answer:  # noqa: ASYNC210 - served by threads
        assert answer.status == 200


async def test_it_answers_while_the_loop_is_blocked_and_says_so(app: TaskQ, worker: Worker) -> None:
    await eventually(lambda: is_ready(worker))
    server = server_of(worker)
    seen: list[tuple[int, str]] = []

    @app.task(name="asks")
    async def asks() -> None:
        """In the loop's own thread: nothing else of the loop runs meanwhile."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            seen.append(fetch(url_of(worker, "/live")))  # holds the loop, too
            if seen[-1][0] != 200:
                return
            time.sleep(0.05)  # noqa: ASYNC251 - that is the point

    await (await asks.delay()).get(timeout=20)
    assert seen[-1][0] == 503
    assert "the event loop has been blocked" in seen[-1][1]
    await eventually(lambda: is_ready(worker))
    assert server is server_of(worker)


async def test_a_worker_that_leaves_messages_alone_is_not_alive(app: TaskQ, worker: Worker) -> None:
    """Its loop runs and its broker answers, and yet it does not receive: what Celery's probes do not see."""
    await eventually(lambda: is_ready(worker))
    assert worker._parts is not None
    health = worker._parts.probes.health if worker._parts.probes else None
    assert health is not None
    health.waiting = {"celery": 3}
    health._attend()
    assert health.why_dead() == []
    await eventually(lambda: health.why_dead() != [])
    assert "waiting messages were not received" in health.why_dead()[0]
    worker._parts.intake.received = time.monotonic()
    health._attend()
    assert health.why_dead() == []


async def test_a_watchdog_that_fails_is_told_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """Its thread ended with the first error that nobody had thought of, and no lease was renewed any more."""
    url = "memory://failing"
    app = TaskQ("failing", broker=url, backend=url, http_bind="0", health_patience=0.2, lease_seconds=0.3)
    async with running(app) as worker:
        assert worker._parts is not None
        leases, health = worker._parts.leases, server_of(worker)._health
        await eventually(lambda: is_ready(worker) if leases.renewals else False)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MemoryBroker, "renew", refusing)
            await eventually(lambda: "the watchdog has failed" in " ".join(health.why_dead()))
            assert "RuntimeError: a bug" in caplog.text
            assert (await ask(worker, "/live"))[0] == 503
        before = leases.renewals
        await eventually(lambda: leases.renewals > before and not health.why_dead())


async def refusing(*_: object) -> None:
    raise RuntimeError("a bug")


async def test_judging_goes_on_after_an_error(
    app: TaskQ, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    await eventually(lambda: is_ready(worker))
    health = server_of(worker)._health
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryBroker, "ready", refusing)
        await eventually(lambda: "judging the worker's health failed" in caplog.text)
        assert (await ask(worker, "/ready"))[0] == 503
    await eventually(lambda: is_ready(worker))
    assert health.connected


async def test_the_heartbeat_file_and_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        beat = tmp_path / "beat"
        app = TaskQ("beats", broker="memory://beats", backend="memory://beats", heartbeat_file=str(beat))
        async with running(app):
            await eventually(beat.exists)
            os.utime(beat, (0, 0))
            await eventually(lambda: beat.stat().st_mtime > 0)
        assert not beat.exists()
        heard = []
        while True:
            try:
                heard.append(systemd.recv(100).decode())
            except BlockingIOError:
                break
    assert heard.count("READY=1") == 1
    assert "WATCHDOG=1" in heard
    assert heard.count("STOPPING=1") == 1
    assert heard.index("READY=1") < heard.index("STOPPING=1")


def test_without_systemd_nobody_is_told() -> None:
    notifier = Notifier({})
    notifier.tell("READY=1")
    assert not notifier.active
    assert notifier.watchdog is None


def handlers() -> int:
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


async def test_a_client_that_trickles_is_cut_off(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskq.worker.health.http._PATIENCE", 0.3)
    with socket.create_connection(server_of(worker).address, timeout=0.02) as client:

        def is_cut_off() -> bool:
            """Says one byte more of a line without an end, and listens."""
            try:
                client.sendall(b"G")
                return client.recv(1000) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        await eventually(is_cut_off)
    await eventually(lambda: handlers() == 0)


async def test_many_silent_clients_leave_room_for_others(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskq.worker.health.http._CONNECTIONS", 3)
    with ExitStack() as silent:
        for _ in range(20):
            silent.enter_context(socket.create_connection(server_of(worker).address))
        assert await ask(worker, "/live") == (200, "ok\n")
        await eventually(lambda: handlers() <= 3, within=2)
    await eventually(lambda: handlers() == 0)


async def test_off_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    async with running(TaskQ("quiet", broker="memory://quiet", backend="memory://quiet")) as worker:
        assert worker._parts is not None
        assert worker._parts.probes is None


@pytest.mark.parametrize(
    ("text", "number", "expected"),
    [
        ("8787", 1, ("127.0.0.1", 8787)),
        (":8787", 3, ("127.0.0.1", 8789)),
        ("0.0.0.0:80", 1, ("0.0.0.0", 80)),
        ("[::1]:80", 2, ("::1", 81)),
        ("host:0", 2, ("host", 0)),
    ],
)
def test_parse_bind(text: str, number: int, expected: tuple[str, int]) -> None:
    assert parse_bind(text, number) == expected


@pytest.mark.parametrize("text", ["", "host", "host:", "host:port", "host:70000"])
def test_parse_bind_refuses(text: str) -> None:
    with pytest.raises(ConfigError, match="http_bind"):
        parse_bind(text)


async def test_a_port_that_is_taken_is_told(app: TaskQ, worker: Worker) -> None:
    port = server_of(worker).address[1]
    other = TaskQ("other", broker="memory://other", backend="memory://other", http_bind=str(port))
    with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
        await Worker(other).run()
