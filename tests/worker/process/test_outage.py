"""What is logged of an outage: its begin and its end, once each."""

import asyncio
import logging
import shutil
import signal
from pathlib import Path

import pytest
from yarl import URL

from taskq.errors import ConnectionLost, OperationalError, StoreError
from taskq.worker.process.outage import BROKER, STORE, Outages
from tests.commands import running_taskq
from tests.e2e.conftest import site_amqp, site_redis  # noqa: F401 - fixtures
from tests.polling import eventually
from tests.proxy import proxy


def record(*args: object, level: int = logging.WARNING, name: str = "taskq.worker") -> logging.LogRecord:
    return logging.LogRecord(name, level, "", 0, "%s" * len(args), args, None)


def test_the_first_line_of_an_outage_passes() -> None:
    outages = Outages()
    assert outages.filter(record(ConnectionLost("away")))
    assert not outages.filter(record(ConnectionLost("still away"), level=logging.ERROR))
    assert outages.filter(record(StoreError("away, too")))
    assert outages.filter(record(OperationalError("another reason")))
    assert sorted(outages.away) == [BROKER, STORE]
    assert (outages.over(BROKER) or 0) < 60


def test_what_comes_late_of_an_outage_is_no_new_one() -> None:
    """A connection finds out late that it is lost. If the broker is really away again, who looks says so."""
    outages = Outages()
    assert outages.filter(record(ConnectionLost("away")))
    assert outages.over(BROKER) is not None
    assert not outages.filter(record(ConnectionLost("late")))
    assert outages.away == [BROKER]
    assert outages.over(BROKER) is None
    assert not outages.filter(record(ConnectionLost("later")))
    assert [outages.lasts(BROKER), outages.lasts(BROKER)] == [True, False]
    assert outages.over(BROKER) is not None


def test_a_record_is_judged_once_for_all_handlers() -> None:
    outages, first = Outages(), record(ConnectionLost("away"))
    assert outages.filter(first)
    assert outages.filter(first)


def test_one_server_has_one_outage() -> None:
    outages = Outages()
    outages.one_server = True
    assert outages.filter(record(StoreError("away")))
    assert not outages.filter(record(ConnectionLost("away")))
    assert outages.away == [BROKER]


def test_everything_is_said_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "taskq.worker")
    outages = Outages()
    assert [outages.filter(record(ConnectionLost("away"))) for _ in range(3)] == [True] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("site_redis", marks=pytest.mark.redis),
        pytest.param("site_amqp", marks=pytest.mark.rabbitmq),
    ],
)
def test_a_worker_says_one_line_when_its_broker_is_away_and_one_when_it_is_back(
    tmp_path: Path, request: pytest.FixtureRequest, name: str
) -> None:
    site = request.getfixturevalue(name)
    shutil.copy(Path(__file__).parents[2] / "e2e" / "jobs.py", tmp_path / "jobs.py")

    async def outage() -> str:
        async with proxy(URL(site.broker).port or 0) as between:
            broker = str(URL(site.broker).with_port(between.port))
            backend = site.backend.replace(site.broker, broker)
            env = {**site.env, "TASKQ_BROKER_URL": broker, "TASKQ_RESULT_BACKEND": backend}
            options = ("-q", "worker", "-A", "jobs", "--http", "0")
            with running_taskq(*options, folder=tmp_path, env=env) as worker:
                await asyncio.to_thread(worker.says, "serves /live")
                between.refuse = True
                between.cut()
                await asyncio.to_thread(worker.says, "warning ")
                tried = between.refused
                await eventually(lambda: between.refused >= tried + 5, within=45)  # by all its parts
                between.refuse = False
                await asyncio.to_thread(worker.says, "the broker is back after")
                worker.send(signal.SIGTERM)
                assert await asyncio.to_thread(worker.wait) == 0
        return worker.output

    other = (" info ", "ready.", "stopping", "the last events")
    said = [line for line in asyncio.run(outage()).splitlines() if not any(word in line for word in other)]
    assert len(said) == 2, said
    assert ":**@" in said[0] or "redis://" in said[0]
    assert "is back after" in said[1]
