"""Several worker processes under one: nodes of their own, restarts, signals, exit codes."""

import shutil
import signal
from pathlib import Path

import pytest

from taskq import TaskQ
from tests.commands import Running, running_taskq
from tests.e2e.conftest import Site
from tests.polling import eventually

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
