"""Runs in child processes: values, states, limits, deaths, replacement."""

import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from taskq import TaskQ
from taskq.errors import (
    EncodeError,
    SoftTimeLimitExceeded,
    TaskError,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from taskq.wire.message import DeadLetter
from taskq.worker import Worker
from taskq.worker.pools.processes import where_found
from taskq.worker.worker import Stop
from tests.harness import Place, running
from tests.polling import eventually
from tests.worker import heavy


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    async with running(heavy.app, grace=0.5) as worker:
        yield worker
    await (await heavy.app.open_broker()).purge("celery")
    await heavy.app.close()


def alive(pid: int) -> bool:
    """Whether it runs: one that was killed may be a zombie for a moment."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


async def test_runs_elsewhere_in_a_process_that_is_kept(worker: Worker) -> None:
    first = await (await heavy.pid.delay()).get(timeout=20)
    second = await (await heavy.pid.delay()).get(timeout=20)
    assert first == second != os.getpid()


async def test_two_runs_have_two_processes_and_the_third_waits(worker: Worker, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        await heavy.sleeps.delay(str(path))
    await eventually(lambda: all(path.exists() and path.read_text() for path in paths))
    await heavy.sleeps.delay(str(tmp_path / "c"))
    assert await (await heavy.app.send_task("celery.accumulate", (1,))).get(timeout=10) == [1]
    assert len({path.read_text() for path in paths}) == 2
    assert len(worker.running) == 2
    worker.stop(Stop.COLD)


async def test_states_logs_and_request_come_through(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    result = await heavy.told.delay()
    seen: list[Any] = []
    value = await result.get(timeout=20, on_message=lambda message: seen.append(message["status"]))
    assert value == {"id": result.id, "args": [], "hostname": worker.hostname}
    assert seen == ["HALFWAY", "PROGRESS", "SUCCESS"]
    [record] = [record for record in caplog.records if record.name == "heavy.told"]
    assert record.getMessage() == "in a child"
    assert record.__dict__["task_id"] == result.id


async def test_exceptions_keep_their_class_and_traceback(worker: Worker) -> None:
    result = await heavy.fails.delay("missing")
    with pytest.raises(KeyError, match="missing"):
        await result.get(timeout=20)
    assert "in fails" in str(result.traceback)
    assert "heavy.py" in str(result.traceback)
    assert "child.py" not in str(result.traceback)


async def test_exceptions_that_cannot_be_pickled_still_tell(worker: Worker) -> None:
    with pytest.raises(heavy.Picky, match="3: no"):
        await (await heavy.fails.delay("picky")).get(timeout=20)
    exited: Any = await (await heavy.app.send_task(heavy.fails.name, ("exit",))).get(
        timeout=20, propagate=False
    )
    assert (type(exited).__name__, exited.args) == ("SystemExit", (4,))
    with pytest.raises(EncodeError, match="cannot leave its process"):
        await (await heavy.unpicklable.delay()).get(timeout=20)


@pytest.mark.parametrize("what", ["log", "foreign log", "state", "foreign state"])
async def test_what_the_worker_cannot_read_ends_neither_the_run_nor_the_process(
    worker: Worker, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    result = await heavy.tells.delay(what)
    assert await result.get(timeout=20) == "done"
    assert "cannot" in caplog.text or "it broke" in caplog.text
    first = await (await heavy.pid.delay()).get(timeout=20)
    assert first == await (await heavy.pid.delay()).get(timeout=20)


async def test_what_a_log_record_carries_is_told_as_text_where_it_cannot_be_read(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    result = await heavy.tells.delay("log")
    await result.get(timeout=20)
    [record] = [record for record in caplog.records if record.name == "heavy.told"]
    assert record.__dict__["why"] == "Picky('3: no')"
    assert record.__dict__["part"] == 7
    assert record.__dict__["task_id"] == result.id


async def test_whatever_ends_the_reading_ends_the_run(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_record: logging.LogRecord) -> bool:
        raise RuntimeError("a broken filter")

    monkeypatch.setattr(logging.getLogger("heavy.told"), "filters", [refuse])
    with pytest.raises(WorkerLostError, match="3 workers died"):
        await (await heavy.tells.delay("log")).get(timeout=30)
    assert await (await heavy.pid.delay()).get(timeout=20)


async def test_a_run_has_its_result_when_no_further_process_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(heavy.app.conf.__dict__, "worker_max_tasks_per_child", 1)
    begun, release = tmp_path / "begun", tmp_path / "release"
    async with running(heavy.app):
        result = await heavy.waits.delay(str(begun), str(release))
        await eventually(begun.exists)
        with monkeypatch.context() as broken:
            broken.setattr("sys.executable", str(tmp_path / "none"))
            release.touch()
            assert await result.get(timeout=20) == "done"
        assert await (await heavy.pid.delay()).get(timeout=20)


async def test_the_soft_limit_strikes_inside(worker: Worker) -> None:
    assert await (await heavy.soft.delay(catches=True)).get(timeout=20) == "cleaned up"
    with pytest.raises(SoftTimeLimitExceeded):
        await (await heavy.soft.delay(catches=False)).get(timeout=20)


async def test_the_hard_limit_kills_the_process_and_what_it_started(worker: Worker, tmp_path: Path) -> None:
    path = tmp_path / "pids"
    with pytest.raises(TimeLimitExceeded, match=r"0\.5"):
        await (await heavy.endless.delay(str(path))).get(timeout=20)
    pids = [int(pid) for pid in path.read_text().split()]
    await eventually(lambda: not any(map(alive, pids)))
    assert await (await heavy.pid.delay()).get(timeout=20)


async def test_a_task_that_kills_its_process_runs_again(worker: Worker, tmp_path: Path) -> None:
    assert await (await heavy.dies.delay(str(tmp_path / "log"), 2)).get(timeout=30) == 2


async def test_a_task_that_always_kills_its_process_is_put_away(worker: Worker, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with pytest.raises(WorkerLostError, match="3 workers died"):
        await (await heavy.dies.delay(str(path), 99)).get(timeout=30)
    assert path.read_text() == "xxx"


@pytest.mark.redis
@pytest.mark.rabbitmq
async def test_one_that_always_kills_its_process_is_put_away_on_rabbitmq_too(
    place_rabbitmq: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, app = tmp_path / "log", heavy.app
    queue = place_rabbitmq.settings["task_default_queue"]
    monkeypatch.setitem(app.conf.__dict__, "broker_url", place_rabbitmq.broker)
    monkeypatch.setitem(app.conf.__dict__, "result_backend", place_rabbitmq.backend)
    async with app, running(app, queues=[queue], grace=0.5):
        result = await heavy.dies.apply_async((str(path), 99), queue=queue)
        with pytest.raises(WorkerLostError, match="3 workers died"):
            await result.get(timeout=30)
        await result.forget()
        broker = await app.open_broker()

        async def letters() -> list[DeadLetter]:
            return [letter for letter in await broker.dead() if letter.queue == queue]

        [letter] = await eventually(letters)  # the caller is told first
        await broker.revive([letter.id])
    assert letter.message is not None
    assert letter.message.headers["id"] == result.id
    assert path.read_text() == "xxx"


async def test_a_death_after_an_early_ack_is_a_failure(worker: Worker) -> None:
    with pytest.raises(WorkerLostError, match="exit code 9"):
        await (await heavy.dies_early.delay()).get(timeout=20)


async def test_terminating_kills_the_process(worker: Worker, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    result = await heavy.sleeps.delay(str(path))
    await eventually(lambda: path.exists() and path.read_text())
    await result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        await result.get(timeout=10)
    await eventually(lambda: not alive(int(path.read_text())))


async def test_a_stopping_worker_gives_back_what_does_not_end(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    async with running(heavy.app, grace=0.2) as worker:
        result = await heavy.sleeps.delay(str(path))
        await eventually(lambda: path.exists() and path.read_text())
    assert worker.clean
    assert not alive(int(path.read_text()))
    broker = await heavy.app.open_broker()
    assert await broker.size("celery") == 1
    await broker.purge("celery")
    await result.refresh()
    assert result.state == "PENDING"


@pytest.mark.parametrize(("setting", "limit"), [("tasks", 1), ("memory", 1000)])
async def test_processes_are_replaced(setting: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"worker_max_{setting}_per_child"
    monkeypatch.setitem(heavy.app.conf.__dict__, name, limit)
    async with running(heavy.app):
        pids = [await (await heavy.greedy.delay(1)).get(timeout=20) for _ in range(2)]
    assert pids[0] != pids[1]


def test_functions_without_a_place_stay_in_threads() -> None:
    app = TaskQ("nowhere", broker="memory://nowhere")

    @app.task(time_limit=1)
    def local() -> None: ...

    assert where_found(local) is None
    assert where_found(heavy.pid) == ("tests.worker.heavy", "pid")


async def test_one_that_must_and_cannot_fails() -> None:
    app = TaskQ("nowhere", broker="memory://nowhere2", backend="memory://nowhere2")

    @app.task(run_in="process")
    def local() -> None: ...

    async with running(app):
        with pytest.raises(Exception, match="must be found by module and name"):
            await (await local.delay()).get(timeout=10)


def test_run_in_is_for_plain_functions() -> None:
    app = TaskQ("wrong", broker="memory://wrong")

    async def coroutine() -> None: ...

    with pytest.raises(TypeError, match="run_in"):
        app.task(run_in="process")(coroutine)
    with pytest.raises(ValueError, match="run_in"):
        app.task(run_in="fiber")(lambda: None)  # type: ignore[call-overload]  # the test hands in a wrong value


def test_the_error_is_one_that_callers_know() -> None:
    assert issubclass(WorkerLostError, TaskError)
