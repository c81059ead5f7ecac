"""How a worker process ends, and what becomes of what it ran."""

import asyncio
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from taskq import TaskQ
from tests.commands import Running, running_taskq
from tests.polling import eventually_sync

TASKS = '''
import asyncio
from pathlib import Path

from taskq import TaskQ

app = TaskQ("tasks", broker="sqlite:///queue.db", backend="disabled://")
GO = Path("go")


@app.task
async def hold() -> str:
    Path("started").touch()
    while not GO.exists():
        await asyncio.sleep(0.01)
    return "held"


@app.task
async def spin() -> None:
    """Blocks the loop."""
    Path("started").touch()
    while not GO.exists():
        pass


@app.task
async def stubborn() -> None:
    Path("started").touch()
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tasks.py").write_text(TASKS)
    return tmp_path


def send(folder: Path, name: str) -> str:
    async def run() -> str:
        async with app_of(folder) as app:
            return (await app.send_task(name)).id

    return asyncio.run(run())


def waiting(folder: Path) -> int:
    async def run() -> int:
        async with app_of(folder) as app:
            return await (await app.open_broker()).size("celery")

    return asyncio.run(run())


def app_of(folder: Path) -> TaskQ:
    return TaskQ("tasks", broker=f"sqlite:///{folder / 'queue.db'}", backend="disabled://")


@contextmanager
def worker_running(folder: Path, task: str, *options: str, **env: str) -> Iterator[Running]:
    """A worker that is in the middle of a task."""
    send(folder, f"tasks.{task}")
    with running_taskq("worker", "-A", "tasks", *options, folder=folder, env=env) as worker:
        eventually_sync((folder / "started").exists)
        yield worker


def test_term_lets_running_tasks_finish(folder: Path) -> None:
    with worker_running(folder, "hold") as worker:
        worker.send(signal.SIGTERM)
        worker.says("waiting up to 25s for 1 task (hold ")
        (folder / "go").touch()
        assert worker.wait() == 0
    assert "succeeded  tasks.hold[" in worker.output
    assert "returned" not in worker.output
    assert waiting(folder) == 0


def test_what_outlives_the_grace_period_goes_back_at_once_and_is_run_by_the_next(folder: Path) -> None:
    with worker_running(folder, "hold", "--grace", "100ms") as worker:
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    assert "returned   tasks.hold[" in worker.output
    assert waiting(folder) == 1
    (folder / "go").touch()
    with running_taskq("worker", "-A", "tasks", folder=folder) as following:
        following.says("succeeded  tasks.hold[")
    assert waiting(folder) == 0


def test_ctrl_c_waits_then_cancels(folder: Path) -> None:
    with worker_running(folder, "hold") as worker:
        worker.send(signal.SIGINT)
        line = worker.says("Ctrl-C again to cancel them")
        assert re.search(r"waiting up to 25s for 1 task \(hold \d+s\); Ctrl-C again", line)
        worker.send(signal.SIGINT)
        assert worker.wait() == 130
    assert "cancelling 1 task (hold" in worker.output
    assert "Ctrl-C again to leave at once" in worker.output
    assert waiting(folder) == 1


def test_the_third_ctrl_c_leaves_at_once(folder: Path) -> None:
    with worker_running(folder, "stubborn") as worker:
        worker.send(signal.SIGINT)
        worker.says("Ctrl-C again to cancel them")
        worker.send(signal.SIGINT)
        worker.says("Ctrl-C again to leave at once")
        worker.send(signal.SIGINT)
        assert worker.wait() == 130


@pytest.mark.parametrize(
    ("number", "env"), [(signal.SIGQUIT, {}), (signal.SIGTERM, {"REMAP_SIGTERM": "SIGQUIT"})]
)
def test_quit_cancels_and_gives_back(folder: Path, number: signal.Signals, env: dict[str, str]) -> None:
    with worker_running(folder, "hold", **env) as worker:
        worker.send(number)
        assert worker.wait() == 0
    assert re.search(r"cancelling 1 task \(hold \d+s\) and giving them back", worker.output)
    assert waiting(folder) == 1


def test_usr1_shows_where_coroutines_are_and_the_worker_goes_on(folder: Path) -> None:
    with worker_running(folder, "hold") as worker:
        worker.send(signal.SIGUSR1)
        worker.says("--- coroutine tasks.hold[")
        worker.says("await asyncio.sleep(0.01)")
        worker.says("--- thread MainThread")
        (folder / "go").touch()
        worker.says("succeeded  tasks.hold[")


def test_usr1_shows_what_blocks_the_loop(folder: Path) -> None:
    with worker_running(folder, "spin") as worker:
        worker.send(signal.SIGUSR1)
        worker.says("in spin")
        (folder / "go").touch()
        worker.says("succeeded  tasks.spin[")


def test_hup_starts_the_worker_anew_once_it_has_drained(folder: Path) -> None:
    with worker_running(folder, "hold") as worker:
        worker.send(signal.SIGHUP)
        worker.says("waiting up to 25s for 1 task")
        (folder / "go").touch()
        eventually_sync(lambda: worker.output.count("ready.") == 2)
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    assert "succeeded  tasks.hold[" in worker.output
    assert worker.output.count(f"pid {worker.process.pid} ") == 2
