"""Several worker processes under one: nodes of their own, restarts, signals, exit codes."""

import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from taskq import TaskQ
from tests.commands import Running, environment, running_taskq
from tests.e2e.conftest import Site
from tests.e2e.test_kill import Log
from tests.e2e.test_process_runs import runs
from tests.polling import eventually, eventually_sync

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(Path(__file__).parent / "jobs.py", tmp_path / "jobs.py")
    return tmp_path


def pids(worker: Running) -> list[int]:
    """Of the processes, as their banners tell them."""
    return [int(line.split("pid ")[1].split()[0]) for line in worker.lines if "pid " in line]


async def test_each_process_is_a_node_and_one_that_dies_is_replaced(folder: Path, site_sqlite: Site) -> None:
    site = site_sqlite
    options = ("worker", "-A", "jobs", "-l", "info", "-n", "w@here", "--processes", "2")
    async with TaskQ("jobs", broker=site.broker, backend=site.backend) as app:
        with running_taskq(*options, folder=folder, env=site.env) as worker:
            worker.says("w-1@here ready.")
            worker.says("w-2@here ready.")
            assert await (await app.send_task("jobs.job", (1,))).get(timeout=20) == 1
            await app.send_task("jobs.poison")
            worker.says("ended with code 3, another starts in")
            await eventually(lambda: len(pids(worker)) == 3)
            assert await (await app.send_task("jobs.job", (2,))).get(timeout=20) == 2
            worker.send(signal.SIGTERM)
            assert worker.wait() == 0
        assert len(set(pids(worker))) >= 3


async def test_a_process_that_is_shut_down_remotely_stays_down(folder: Path, site_sqlite: Site) -> None:
    site = site_sqlite
    options = ("worker", "-A", "jobs", "-l", "info", "-n", "w@here", "--processes", "2")
    async with TaskQ("jobs", broker=site.broker, backend=site.backend) as app:
        with running_taskq(*options, folder=folder, env=site.env) as worker:
            worker.says("w-1@here ready.")
            worker.says("w-2@here ready.")
            await app.control.shutdown(destination=["w-1@here"])
            worker.says("process 1 was told to stop and stays down")
            assert await app.control.ping(["w-2@here"], timeout=20) == [{"w-2@here": {"ok": "pong"}}]
            await app.control.shutdown()
            assert worker.wait() == 0
        assert len(pids(worker)) == 2


def test_what_cannot_work_is_not_tried_again(tmp_path: Path) -> None:
    with running_taskq("worker", "-A", "nope", "--processes", "2", folder=tmp_path) as worker:
        assert worker.wait() == 2


#: Runs a command on a terminal of its own: what comes in by standard input is typed there.
ON_A_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
OPTIONS = ("worker", "-A", "jobs", "-n", "w@here", "--processes", "2")


async def test_a_process_in_which_a_c_call_holds_the_interpreter_is_killed_past_its_limit(
    folder: Path, site_sqlite: Site
) -> None:
    """No thread of that process can end it: only the supervisor sees its silence."""
    site = site_sqlite
    async with TaskQ("jobs", broker=site.broker, backend=site.backend) as app:
        with running_taskq(*OPTIONS, folder=folder, env=site.env) as worker:
            worker.says("w-1@here ready.")
            worker.says("w-2@here ready.")
            await app.send_task("jobs.holds_the_interpreter", (1,))
            line = worker.says("past the time limit of its tasks (1 s): killed")
            assert "has run nothing else for 6 s" in line or "has run nothing else for 7 s" in line
            worker.says("ended with code -9, another starts in")
            worker.send(signal.SIGTERM)


async def test_one_whose_tasks_have_no_limit_is_told_of_and_left_alone(
    folder: Path, site_sqlite: Site
) -> None:
    site = replace(site_sqlite, lease=30.0)
    async with TaskQ("jobs", broker=site.broker, backend=site.backend) as app:
        with running_taskq(*OPTIONS, folder=folder, env=site.env) as worker:
            worker.says("w-1@here ready.")
            result = await app.send_task("jobs.holds_it_without_a_limit", (1, 13))
            worker.says("runs nothing else for 10 s now", within=30)
            assert await result.get(timeout=20) is None
            worker.send(signal.SIGTERM)
            assert worker.wait() == 0
        assert worker.output.count("runs nothing else") == 1
        assert "ended with code" not in worker.output


async def test_a_killed_supervisor_leaves_nothing_behind(folder: Path, site_sqlite: Site) -> None:
    """Not its processes, nor those of their tasks and what these have started, though a C call is under way in them."""
    site = site_sqlite
    log = Log(folder)
    async with TaskQ("jobs", broker=site.broker, backend=site.backend) as app:
        with running_taskq(*OPTIONS, folder=folder, env=site.env) as worker:
            worker.says("w-1@here ready.")
            worker.says("w-2@here ready.")
            await app.send_task("jobs.in_a_process", (1,))
            await eventually(lambda: len(log.count("start")) == 2)
            others = [*pids(worker), *log.count("start")]
            assert all(map(runs, others))
            worker.send(signal.SIGKILL)
            await eventually(lambda: not any(map(runs, others)))


def test_one_ctrl_c_on_a_terminal_counts_once(folder: Path, site_sqlite: Site) -> None:
    """The terminal sends it to all in the foreground: the processes are not, and get it passed on."""
    with subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL, sys.executable, "-m", "taskq", *OPTIONS],
        cwd=folder,
        env=environment(**site_sqlite.env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        running = Running(process)
        running.says("w-1@here ready.")
        running.says("w-2@here ready.")
        assert process.stdin is not None
        process.stdin.write("\x03")
        process.stdin.flush()
        assert running.wait() == 0
    assert running.output.count("stopping (SIGINT)") == 2


def test_passwords_of_urls_are_not_in_the_command_lines_of_the_processes(folder: Path) -> None:
    url = "redis://:canary@127.0.0.1:1/0"
    options = ("-qb", url, *OPTIONS, f"--result-backend={url}", "-l", "error")
    with running_taskq(*options, folder=folder) as worker:
        worker.says("redis://:**@127.0.0.1:1/0")
        children = eventually_sync(lambda: children_of(worker.process.pid))
        lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children]
        assert all(b"--seat" in line for line in lines)
        assert not any(b"canary" in line for line in lines)
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0


def children_of(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = [line.split() for line in listed.stdout.splitlines()]
    return [int(child) for child, parent in pairs if parent == str(pid)]
