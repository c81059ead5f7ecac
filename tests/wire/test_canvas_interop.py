"""Workflows between taskq and the real Celery: either sends, either runs, and both run parts of one workflow."""

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from taskq import ChordError, Task, TaskQ, TaskqError, chain, chord, group
from tests.harness import Place, running
from tests.wire.canvas_cases import CASES, Words

pytestmark = [pytest.mark.slow, pytest.mark.redis]

SIDE = Path(__file__).with_name("canvas_cases.py")


class Meeting:
    """One broker for both libraries."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.notes = f"taskq-test-{uuid.uuid4()}"

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.place.backend)

    def environment(self) -> dict[str, str]:
        settings = {"broker_url": self.place.broker, "result_backend": self.place.backend}
        return os.environ | {
            "INTEROP_SETTINGS": json.dumps(settings | dict(self.place.settings)),
            "INTEROP_NOTES": self.notes,
            "PYTHONWARNINGS": "ignore",
        }

    @contextmanager
    def celery_worker(self, folder: Path) -> Iterator[None]:
        with (folder / "celery.log").open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, str(SIDE), "worker"],
                env=self.environment(),
                cwd=folder,
                stdout=log,
                stderr=log,
            )
        try:
            yield
        finally:
            worker.kill()
            worker.wait()

    async def celery_client(self, folder: Path, times: int = 0) -> dict[str, Any]:
        """What comes of all workflows that a Celery client sends."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(SIDE), "client", str(times),
            env=self.environment(), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()[-3000:]
        told: dict[str, Any] = json.loads(out)
        return told

    @asynccontextmanager
    async def taskq_worker(self) -> AsyncIterator[TaskQ]:
        app = self.place.app(worker_prefetch_multiplier=1)
        with_tasks(app, self)
        async with app, running(app, concurrency=4):
            yield app


def with_tasks(app: TaskQ, meeting: Meeting) -> None:
    @app.task(name="interop.add")
    async def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="interop.xsum")
    async def xsum(numbers: list[int]) -> int:
        return sum(numbers)

    @app.task(name="interop.flat")
    async def flat(parts: list[Any]) -> list[int]:
        return [item for part in parts for item in (part if isinstance(part, list) else [part])]

    @app.task(name="interop.fail")
    async def fail(value: int) -> None:
        raise ValueError(value)

    @app.task(name="interop.where")
    async def where(n: int) -> str:
        await asyncio.sleep(0.05)  # leaves some to the others
        return "taskq"

    with_controls(app)

    @app.task(name="interop.count")
    async def count(places: list[str]) -> list[str]:
        with meeting.client() as client:
            client.incr(f"{meeting.notes}:bodies")
        return places


def with_controls(app: TaskQ) -> None:
    @app.task(name="interop.replace", bind=True)
    async def replaced(self: Task[Any, Any, Any], x: int) -> int:
        raise self.replace(app.signature("interop.add", (x, 100)))

    @app.task(name="interop.retry", bind=True)
    async def retried(self: Task[Any, Any, Any], x: int) -> int:
        if self.request.retries < 1:
            raise self.retry(countdown=0)
        return x + self.request.retries


def words(app: TaskQ) -> Words:
    return Words(
        chain,
        group,
        chord,
        lambda name, *args: app.signature(name, args),
        lambda name, *args: app.signature(name, args, immutable=True),
    )


async def outcome(result: Any) -> Any:
    try:
        return await result.get(timeout=30)
    except (TaskqError, ValueError) as error:
        return type(error).__name__


async def taskq_client(app: TaskQ, times: int = 0, *, without: str) -> dict[str, Any]:
    """What comes of all workflows that a taskq client sends, None of the one left out."""
    chosen = {name: make for name, (make, _) in CASES.items() if name != without}
    results = {name: await make(words(app)).apply_async() for name, make in chosen.items()}
    spread = [
        await chord(
            [app.signature("interop.where", (n,)) for n in range(6)], app.signature("interop.count")
        ).apply_async()
        for _ in range(times)
    ]
    told = {name: await outcome(result) for name, result in results.items()}
    return told | {without: None, "spread": [await outcome(result) for result in spread]}


@pytest.fixture(params=["redis", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def meeting(request: pytest.FixtureRequest) -> Iterator[Meeting]:
    found = Meeting(request.getfixturevalue(f"place_{request.param}"))
    yield found
    with found.client() as client:
        client.delete(found.notes, f"{found.notes}:bodies")


#: A Celery client looks at the parents of a result first, and raises what it finds there.
OF_PARENTS = {"failed header": "ValueError", "failed chain in header": "ValueError"}
#: A Celery worker does not tell the outer chord: its body is never run and never fails.
NEVER_ENDS = "failed chord in header"


def wanted(**instead: Any) -> dict[str, Any]:
    return {name: value for name, (_, value) in CASES.items()} | instead


async def test_a_celery_client_and_taskq_workers(meeting: Meeting, tmp_path: Path) -> None:
    async with meeting.taskq_worker():
        told = await meeting.celery_client(tmp_path)
    told.pop("spread")
    assert told == wanted(**OF_PARENTS)


async def test_a_taskq_client_and_celery_workers(meeting: Meeting, tmp_path: Path) -> None:
    with meeting.celery_worker(tmp_path):
        async with meeting.place.app() as app:
            told = await taskq_client(app, without=NEVER_ENDS)
    told.pop("spread")
    assert told == wanted(**{NEVER_ENDS: None})


@pytest.mark.parametrize("sender", ["celery", "taskq"])
async def test_both_kinds_of_workers_share_every_workflow(
    meeting: Meeting, tmp_path: Path, sender: str
) -> None:
    times = 40
    async with AsyncExitStack() as stack:
        stack.enter_context(meeting.celery_worker(tmp_path))
        async with meeting.place.app() as client:  # it is ready when it has answered
            assert await (await client.send_task("interop.where", (0,))).get(timeout=60) == "celery"
        app = await stack.enter_async_context(meeting.taskq_worker())
        if sender == "celery":
            told = await meeting.celery_client(tmp_path, times)
        else:
            told = await taskq_client(app, times, without=NEVER_ENDS)
    spread = told.pop("spread")
    assert told == wanted(**(OF_PARENTS if sender == "celery" else {NEVER_ENDS: None}))
    ran = Counter(place for chord_ in spread for place in chord_)
    assert sum(ran.values()) == 6 * times
    assert set(ran) == {"celery", "taskq"}
    assert any(len(set(places)) == 2 for places in spread)  # members of one chord on both
    with meeting.client() as client:
        assert client.get(f"{meeting.notes}:bodies") == str(times).encode()  # each body once


async def test_the_error_of_a_chord_is_worded_as_celerys(meeting: Meeting, tmp_path: Path) -> None:
    async with meeting.taskq_worker() as app:
        result = await CASES["failed header"][0](words(app)).apply_async()
        with pytest.raises(ChordError, match=r"^Dependency [0-9a-f-]{36} raised ValueError\(0\)$"):
            await result.get(timeout=20)
