"""Workers that are silent: with a blocked event loop they keep what they hold, stopped ones lose it for good."""

import shutil
import signal
from pathlib import Path

import pytest

from taskq import TaskQ
from tests.commands import Running, running_taskq
from tests.e2e.conftest import Site
from tests.e2e.test_kill import Log
from tests.polling import eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(Path(__file__).parent / "jobs.py", tmp_path / "jobs.py")
    return tmp_path


def options(name: str) -> tuple[str, ...]:
    return ("worker", "-A", "jobs", "-c", "4", "-l", "warning", "-n", name)


async def test_a_blocked_loop_keeps_its_lease(folder: Path, site: Site) -> None:
    """Four leases long, with another worker that would take over: it runs once."""
    log = Log(folder)
    async with TaskQ("jobs", broker=site.broker, backend=site.backend) as app:
        with (
            running_taskq(*options("one"), folder=folder, env=site.env) as one,
            running_taskq(*options("two"), folder=folder, env=site.env) as two,
        ):
            one.says("ready.")
            two.says("ready.")
            result = await app.send_task("jobs.blocking", (1, 4 * site.lease))
            assert await result.get(timeout=60) == 1
            assert log.count("start") == {1: 1}
            blocked = [worker for worker in (one, two) if "blocks the event loop" in worker.output]
            assert len(blocked) == 1
            assert "jobs.blocking" in blocked[0].output
            assert "time.sleep(seconds)" in blocked[0].output


async def test_a_loop_stuck_past_the_hard_limit_ends_the_process(folder: Path, site: Site) -> None:
    async with TaskQ("jobs", broker=site.broker, backend=site.backend) as app:
        with running_taskq(*options("one"), folder=folder, env=site.env) as one:
            one.says("ready.")
            await app.send_task("jobs.stuck", (1,))
            assert one.wait() == 75
            assert "past its time limit" in one.output


async def test_a_stopped_worker_does_not_answer_for_what_others_have(folder: Path, leased: Site) -> None:
    """SIGSTOP for longer than the lease, then SIGCONT: the other worker's result stands."""
    log = Log(folder)
    async with TaskQ("jobs", broker=leased.broker, backend=leased.backend) as app:
        with running_taskq(*options("one"), folder=folder, env=leased.env) as one:
            one.says("ready.")
            result = await app.send_task("jobs.answered_by", (1, 3 * leased.lease))
            await eventually(lambda: log.count("start")[1] == 1)
            one.send(signal.SIGSTOP)
            with running_taskq(*options("two"), folder=folder, env=leased.env) as two:
                two.says("ready.")
                await eventually(lambda: log.count("start")[1] == 2, within=leased.lease + 2 + 3)
                one.send(signal.SIGCONT)
                await told(one, "were lost")
                assert await result.get(timeout=60) == "celery@two"
                await eventually(lambda: log.count("end")[1] == 2)
                one.send(signal.SIGTERM)
                assert one.wait() == 0
                await result.refresh()
                assert result.result == "celery@two"


async def test_what_waited_in_a_stopped_worker_does_not_begin_there(folder: Path, leased: Site) -> None:
    """Of 20 that it held when it was stopped, the 4 that ran then are run twice, and the others once."""
    log = Log(folder)
    async with TaskQ("jobs", broker=leased.broker, backend=leased.backend) as app:
        with running_taskq(*options("one"), folder=folder, env=leased.env) as one:
            one.says("ready.")
            results = [await app.send_task("jobs.job", (number, 0.5)) for number in range(20)]
            await eventually(lambda: len(log.count("start")) == 4)
            one.send(signal.SIGSTOP)
            with running_taskq(*options("two"), folder=folder, env=leased.env) as two:
                two.says("ready.")
                await eventually(lambda: len(log.count("end")) == 20, within=60)
                one.send(signal.SIGCONT)
                await told(one, "were lost")
                for result in results:
                    await result.get(timeout=20)
                more = [await app.send_task("jobs.job", (number,)) for number in range(100, 150)]
                for result in more:
                    await result.get(timeout=20)
                assert [number for number, times in sorted(log.count("start").items()) if times > 1] == [
                    0,
                    1,
                    2,
                    3,
                ]
                one.send(signal.SIGTERM)
                assert one.wait() == 0


async def told(worker: Running, text: str) -> None:
    await eventually(lambda: text in worker.output)
