"""A worker as a process, in this process: its signals are real."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from taskq import TaskQ
from taskq.broker_adapters.memory.broker import MemoryConsumer
from taskq.errors import OperationalError
from taskq.worker import Worker
from taskq.worker.process.process import EXIT_INTERRUPTED, EXIT_OK, EXIT_UNCLEAN, WorkerProcess, describe
from tests.polling import eventually

NOWHERE = "redis://:secret@127.0.0.1:1/0"


@pytest.fixture
async def app() -> AsyncIterator[TaskQ]:
    async with TaskQ("proj", broker="memory://process", backend="disabled://") as app:
        yield app
        await (await app.open_broker()).purge("celery")


@pytest.fixture
async def process(app: TaskQ) -> WorkerProcess:
    return WorkerProcess(Worker(app, grace=20))


def kill(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


async def running(process: WorkerProcess, app: TaskQ) -> "asyncio.Task[int]":
    """Running, and in the middle of a task that takes long."""

    @app.task
    async def long() -> None:
        await asyncio.Event().wait()

    await long.delay()
    run = asyncio.create_task(process.run())
    await eventually(lambda: process.worker.running)
    return run


async def ended(run: "asyncio.Task[int]", app: TaskQ) -> tuple[int, int]:
    """The exit code, and what waits in the queue again."""
    code = await run
    return code, await (await app.open_broker()).size("celery")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
async def test_signals_end_an_idle_worker(
    process: WorkerProcess, number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    before = signal.getsignal(number)
    run = asyncio.create_task(process.run())
    await eventually(lambda: signal.getsignal(number) != before)
    kill(number)
    assert await run == EXIT_OK
    assert f"stopping ({number.name})" in caplog.text
    assert signal.getsignal(number) == before
    assert not process.restart


async def test_quit_gives_back(process: WorkerProcess, app: TaskQ, caplog: pytest.LogCaptureFixture) -> None:
    run = await running(process, app)
    kill(signal.SIGQUIT)
    assert await ended(run, app) == (EXIT_OK, 1)
    assert re.search(r"cancelling 1 task \(long \d+s\) and giving them back", caplog.text)


async def test_told_to_hurry_it_still_settles_what_it_began(
    process: WorkerProcess, app: TaskQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = MemoryConsumer.settle

    async def settle_slowly(consumer: MemoryConsumer, **ends: Any) -> None:
        for _ in range(50):
            await asyncio.sleep(0)
        await settle(consumer, **ends)

    monkeypatch.setattr(MemoryConsumer, "settle", settle_slowly)
    run = await running(process, app)
    kill(signal.SIGQUIT)
    assert await ended(run, app) == (EXIT_OK, 1)


async def test_the_second_interrupt_cancels(
    process: WorkerProcess, app: TaskQ, caplog: pytest.LogCaptureFixture
) -> None:
    run = await running(process, app)
    kill(signal.SIGINT)
    waiting = re.compile(r"waiting up to 20s for 1 task \(long \d+s\); Ctrl-C again to cancel them")
    await eventually(lambda: waiting.search(caplog.text))
    kill(signal.SIGINT)
    assert await ended(run, app) == (EXIT_INTERRUPTED, 1)
    assert "Ctrl-C again to leave at once" in caplog.text


async def test_what_could_not_be_given_back_is_told_by_the_exit_code(
    process: WorkerProcess, app: TaskQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = MemoryConsumer.close

    async def fail_once(_consumer: MemoryConsumer) -> None:
        monkeypatch.setattr(MemoryConsumer, "close", close)
        raise OperationalError("away")

    run = await running(process, app)
    monkeypatch.setattr(MemoryConsumer, "close", fail_once)
    kill(signal.SIGQUIT)
    assert await run == EXIT_UNCLEAN


async def test_hang_up_asks_for_another_beginning(
    process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: False))
    before = signal.getsignal(signal.SIGHUP)
    run = asyncio.create_task(process.run())
    await eventually(lambda: signal.getsignal(signal.SIGHUP) != before)
    kill(signal.SIGHUP)
    assert await run == EXIT_OK
    assert process.restart


async def test_with_the_terminal_gone_it_only_ends(
    process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda: True))
    before = signal.getsignal(signal.SIGHUP)
    run = asyncio.create_task(process.run())
    await eventually(lambda: signal.getsignal(signal.SIGHUP) != before)
    kill(signal.SIGHUP)
    assert await run == EXIT_OK
    assert not process.restart


async def test_term_may_be_made_a_quit(
    process: WorkerProcess, app: TaskQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REMAP_SIGTERM", "SIGQUIT")
    run = await running(process, app)
    kill(signal.SIGTERM)
    assert await ended(run, app) == (EXIT_OK, 1)


async def test_stacks_go_to_standard_error(
    process: WorkerProcess, app: TaskQ, capfd: pytest.CaptureFixture[str]
) -> None:
    run = await running(process, app)
    kill(signal.SIGUSR1)
    written = await eventually(lambda: capfd.readouterr().err)
    assert ".long[" in written.partition("--- coroutine ")[2]
    kill(signal.SIGQUIT)
    await run


async def test_a_broker_that_is_away_is_tried_again_until_told_to_stop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    process = WorkerProcess(Worker(TaskQ("proj", broker=NOWHERE, backend="disabled://")))
    run = asyncio.create_task(process.run())
    await eventually(lambda: "; trying again in 1s" in caplog.text)
    assert "secret" not in caplog.text
    kill(signal.SIGTERM)
    assert await run == EXIT_OK


@pytest.mark.parametrize(
    ("settings", "tries"),
    [
        ({"broker_connection_retry_on_startup": False}, 0),
        ({"broker_connection_retry": False}, 0),
        (
            {
                "broker_connection_retry": False,
                "broker_connection_retry_on_startup": True,
                "broker_connection_max_retries": 2,
            },
            2,
        ),
    ],
)
async def test_or_not_as_the_settings_say(
    settings: dict[str, Any], tries: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskq.worker.process.process.RETRY_STEP", 0.001)
    process = WorkerProcess(Worker(TaskQ("proj", broker=NOWHERE, backend="disabled://", **settings)))
    with pytest.raises(OperationalError, match=r"redis://:\*\*@127.0.0.1:1/0"):
        await process.run()
    assert caplog.text.count("trying again") == tries


def job(name: str, started: float) -> Any:
    return SimpleNamespace(request=SimpleNamespace(name=name), started=started)


@pytest.mark.parametrize(
    ("jobs", "text"),
    [
        ([job("proj.tasks.mail", 11.0)], "1 task (mail 1s)"),
        ([job("proj.tasks.mail", 11.0), job("report", 0.0)], "2 tasks (report 12s, mail 1s)"),
        ([job("a", n) for n in range(7)], "7 tasks (a 12s, a 11s, a 10s, a 9s, a 8s, 2 more)"),
    ],
)
def test_what_runs_is_told_the_longest_first(jobs: list[Any], text: str) -> None:
    assert describe(jobs, 12.0) == text
