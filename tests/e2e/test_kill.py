"""A worker killed with kill -9 in the middle of its work: nothing is lost, and only what was running runs twice."""

import asyncio
import functools
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from taskq import TaskQ
from tests.commands import Running, running_taskq
from tests.e2e.conftest import Site
from tests.polling import eventually

TASKS = 2_000
KILLS = 3
CONCURRENCY = 20

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(Path(__file__).parent / "jobs.py", tmp_path / "jobs.py")
    return tmp_path


@contextmanager
def worker(folder: Path, site: Site, *more: str) -> Iterator[Running]:
    options = ("-A", "jobs", "-c", str(CONCURRENCY), "-l", "warning", *more)
    with running_taskq("worker", *options, folder=folder, env=site.env) as process:
        process.says("ready.")
        yield process


class Log:
    """What the jobs wrote."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "jobs.log"

    def count(self, event: str) -> Counter[int]:
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        return Counter(int(line.split()[1]) for line in lines if line.startswith(event))

    def reached(self, number: int) -> bool:
        return len(self.count("start")) >= number


async def test_nothing_is_lost_over_three_kills(folder: Path, site: Site) -> None:
    log = Log(folder)
    async with TaskQ("jobs", broker=site.broker, backend=site.backend) as app:
        sent = [app.send_task("jobs.job", (number,)) for number in range(TASKS)]
        results = await asyncio.gather(*sent)
        for kill in range(1, KILLS + 1):
            with worker(folder, site) as process:
                await eventually(functools.partial(log.reached, kill * 400))
                process.send(signal.SIGKILL)
                process.wait()
        with worker(folder, site):
            async with asyncio.timeout(60):
                values = await asyncio.gather(*results)
    assert values == list(range(TASKS))
    starts = log.count("start")
    assert set(starts) == set(range(TASKS))
    twice = [number for number, times in starts.items() if times > 1]
    # At a kill so many run, and others have ended and are not yet settled: it holds four for each slot at most.
    assert len(twice) <= KILLS * 4 * CONCURRENCY
    assert max(starts.values()) <= 1 + KILLS


async def test_a_poison_job_ends_in_the_dead_letters(folder: Path, site: Site) -> None:
    async with TaskQ("jobs", broker=site.broker, backend=site.backend) as app:
        poison = await app.send_task("jobs.poison")
        good = await asyncio.gather(*(app.send_task("jobs.job", (number,)) for number in range(100)))
        broker = await app.open_broker()
        deaths = 0
        while not (letters := await broker.dead()):
            with worker(folder, site) as process:

                async def decided(process: Running = process) -> bool:
                    return process.process.poll() is not None or bool(await broker.dead())

                await eventually(decided)
                deaths += process.process.poll() is not None
                process.send(signal.SIGTERM)
                process.wait()
            assert deaths <= 3
        with worker(folder, site):
            async with asyncio.timeout(60):
                await asyncio.gather(*good)
        failure = await poison.get(timeout=5, propagate=False)
    assert deaths == 3
    assert letters[0].message is not None
    assert letters[0].message.headers["task"] == "jobs.poison"
    assert "workers died" in repr(failure)
