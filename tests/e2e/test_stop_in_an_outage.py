"""A worker is told to stop while its broker is away: it is over in time and says what was left."""

import asyncio
import shutil
import signal
from pathlib import Path

import pytest
from yarl import URL

from taskq import TaskQ
from tests.commands import running_taskq
from tests.e2e.conftest import Site
from tests.e2e.test_kill import Log
from tests.polling import eventually
from tests.proxy import proxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

GRACE = 2.0
#: What a process takes to start and end on a busy machine, in seconds.
SLACK = 3.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(Path(__file__).parent / "jobs.py", tmp_path / "jobs.py")
    return tmp_path


@pytest.fixture(
    params=[
        pytest.param("site_redis", marks=pytest.mark.redis),
        pytest.param("site_amqp", marks=pytest.mark.rabbitmq),
    ]
)
def far(request: pytest.FixtureRequest) -> Site:
    """The brokers that are reached over a network."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Site)
    return found


@pytest.mark.parametrize("how", ["silent", "refused"])
async def test_it_is_over_by_the_grace_period_and_a_second(folder: Path, far: Site, how: str) -> None:
    site = far
    log = Log(folder)
    async with (
        TaskQ("jobs", broker=site.broker, backend=site.backend) as app,
        proxy(URL(site.broker).port or 0) as between,
    ):
        broker = str(URL(site.broker).with_port(between.port))
        backend = site.backend.replace(site.broker, broker)
        env = {**site.env, "TASKQ_BROKER_URL": broker, "TASKQ_RESULT_BACKEND": backend}
        options = ("worker", "-A", "jobs", "--grace", str(GRACE))
        with running_taskq(*options, folder=folder, env=env) as worker:
            await asyncio.to_thread(worker.says, "ready.")
            await app.send_task("jobs.job", (1, 0.5))
            await eventually(lambda: log.count("start") == {1: 1})
            if how == "silent":
                between.flow.clear()
            else:
                between.refuse = True
                between.cut()
            await eventually(lambda: log.count("end") == {1: 1})
            worker.send(signal.SIGTERM)
            code = await asyncio.to_thread(worker.wait, GRACE + 1 + SLACK)
        if far.broker.startswith(
            "redis"
        ):  # RabbitMQ takes back by itself what was not settled when a connection ends
            assert code == 1
            assert "outcomes not stored or settled: 1, their tasks are run again" in worker.output
        assert "Traceback" not in worker.output


async def test_so_is_one_whose_loop_is_blocked(folder: Path, site_sqlite: Site) -> None:
    log = Log(folder)
    async with TaskQ("jobs", broker=site_sqlite.broker, backend=site_sqlite.backend) as app:
        options = ("worker", "-A", "jobs", "--grace", "500ms")
        with running_taskq(*options, folder=folder, env=site_sqlite.env) as worker:
            worker.says("ready.")
            await app.send_task("jobs.blocking", (1, 60))
            await eventually(lambda: log.count("start") == {1: 1})
            worker.send(signal.SIGTERM)
            assert worker.wait(1.5 + SLACK) == 1
        assert "the grace period is over and 1 task (blocking " in worker.output
