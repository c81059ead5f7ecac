"""taskq and a real Celery on one RabbitMQ: calls and rpc results both ways, one side killed."""

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import time
from typing import Any

import pytest

from taskq.app import TaskQ
from taskq.worker.worker import Worker
from tests.polling import eventually
from tests.rabbit import rabbit_vhost

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def vhost(amqp_url: str) -> Iterator[str]:
    with rabbit_vhost(amqp_url) as url:
        yield url


@pytest.fixture(params=[True, False], ids=["codec", "driver"])
def app(vhost: str, request: pytest.FixtureRequest) -> TaskQ:
    app = TaskQ("interop")
    app.conf.update(
        broker_url=vhost,
        result_backend="rpc://",
        task_default_queue=f"interop-{uuid.uuid4().hex[:8]}",
        broker_transport_options={"codec": request.param},
    )

    @app.task(name="interop.add")
    async def add(x: Any, y: Any) -> Any:
        return x + y

    @app.task(name="interop.fail")
    async def fail(text: str) -> None:
        raise ValueError(text)

    @app.task(name="interop.sleep")
    async def sleep(seconds: float) -> str:
        return "taskq"

    return app


def environment(app: TaskQ) -> dict[str, str]:
    return os.environ | {"INTEROP_URL": app.conf.broker_url, "INTEROP_QUEUE": app.conf.task_default_queue}


@asynccontextmanager
async def celery_worker(app: TaskQ) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Celery worker with one slot; it is ready."""
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "celery_app",
        "worker",
        "-P",
        "solo",
        "-l",
        "INFO",
        "-n",
        "w@interop",
    ]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=HERE,
        env=environment(app),
        stdout=subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    seen = []
    async with asyncio.timeout(30):
        while b" ready." not in (line := await process.stderr.readline()):
            seen.append(line)
            assert line, b"".join(seen).decode()
    drain = asyncio.ensure_future(process.stderr.read())
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await drain


@asynccontextmanager
async def taskq_worker(app: TaskQ) -> AsyncIterator[Worker]:
    ready = asyncio.Event()
    worker = Worker(app, on_ready=ready.set)
    running = asyncio.ensure_future(worker.run())
    async with asyncio.timeout(20):
        await ready.wait()
    try:
        yield worker
    finally:
        worker.stop()
        await running


async def celery_call(app: TaskQ, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "celery_app.py",
        "call",
        *arguments,
        cwd=HERE,
        env=environment(app),
        stdout=subprocess.PIPE,
    )
    output, _ = await process.communicate()
    return output.decode().strip()


@pytest.fixture
async def connected(app: TaskQ) -> AsyncIterator[TaskQ]:
    yield app
    await app.close()


async def test_taskq_calls_and_celery_runs(connected: TaskQ) -> None:
    app = connected
    async with celery_worker(app):
        assert await (await app.send_task("interop.add", (2, 3))).get(timeout=20) == 5
        text = {"ż": [1.5, None, 2**40, "x" * 200_000]}
        assert await (await app.send_task("interop.add", ([text], []))).get(timeout=20) == [text]
        with pytest.raises(ValueError, match="boom"):
            await (await app.send_task("interop.fail", ("boom",))).get(timeout=20)
        many = [await app.send_task("interop.add", (n, n)) for n in range(50)]
        assert [await one.get(timeout=20) for one in many] == [2 * n for n in range(50)]
        states: list[str] = []
        watched = await app.send_task("interop.progress")
        await watched.get(timeout=20, on_message=lambda message: states.append(message["status"]))
        assert states == ["PROGRESS", "SUCCESS"]
        where = await (await app.send_task("interop.where", headers={"big": 300, "small": -5, "f": 0.1})).get(
            timeout=20
        )
        assert where["headers"] == {"big": 300, "small": -5, "f": 0.1}
        soon = time() + 0.6
        assert await (await app.send_task("interop.add", (1, 1), countdown=0.6)).get(timeout=20) == 2
        assert time() >= soon


async def test_celery_calls_and_taskq_runs(connected: TaskQ) -> None:
    async with taskq_worker(connected):
        calls = (
            celery_call(connected, "interop.add", "2", "3"),
            celery_call(connected, "interop.fail", "boom"),
            celery_call(connected, "interop.unknown"),
        )
        added, failed, unknown = await asyncio.gather(*calls)
    assert added == "result 5"
    assert failed == "error ValueError boom"
    assert unknown.startswith("error NotRegistered")


async def test_what_a_killed_celery_worker_held_is_run_by_taskq(connected: TaskQ) -> None:
    app = connected
    async with celery_worker(app) as process:
        result = await app.send_task("interop.sleep", (60,))
        broker = await app.open_broker()

        async def taken() -> bool:
            return not await broker.size(app.conf.task_default_queue)

        await eventually(taken)
        process.kill()
        await process.wait()
        async with taskq_worker(app):
            assert await result.get(timeout=20) == "taskq"
