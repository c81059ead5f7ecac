"""Ten thousand tasks due in an hour: they wait in the broker, not in the worker, and outlive both."""

import asyncio
import shutil
import signal
from pathlib import Path

import pytest

from taskq import TaskQ, TaskRevokedError
from tests.commands import Running, running_taskq
from tests.e2e.conftest import Site
from tests.harness import Place, running
from tests.polling import eventually

TASKS = 10_000
HOUR = 3600.0
MAY_GROW = 20 * 1024 * 1024

pytestmark = pytest.mark.slow


def resident_bytes(process: Running) -> int:
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


async def test_a_worker_does_not_grow_by_what_is_due_in_an_hour(tmp_path: Path, site: Site) -> None:
    shutil.copy(Path(__file__).parent / "jobs.py", tmp_path / "jobs.py")
    options = ("-A", "jobs", "-c", "10", "-l", "warning")
    async with TaskQ("jobs", broker=site.broker, backend=site.backend) as app:
        with running_taskq("worker", *options, folder=tmp_path, env=site.env) as worker:
            worker.says("ready.")
            warm = await asyncio.gather(*(app.send_task("jobs.job", (n,)) for n in range(100)))
            await asyncio.gather(*warm)
            before = resident_bytes(worker)
            calls = (app.send_task("jobs.job", (n,), countdown=HOUR) for n in range(TASKS))
            delayed = await asyncio.gather(*calls)
            # What comes after them is run at once: nobody waits behind the delayed ones.
            await (await app.send_task("jobs.job", (0,))).get(timeout=60)
            grown = resident_bytes(worker) - before
            worker.send(signal.SIGTERM)
            assert worker.wait() == 0
        assert grown < MAY_GROW, f"{grown / 1024 / 1024:.1f} MB"
        with running_taskq("worker", *options, folder=tmp_path, env=site.env) as worker:
            worker.says("ready.")
            await (await app.send_task("jobs.job", (0,))).get(timeout=60)
        assert len(delayed) == TASKS

        async def all_there() -> bool:
            return await site.waiting() == TASKS

        await eventually(all_there, every=1)


async def test_what_waits_in_the_broker_for_its_eta_ends_when_it_is_revoked(site: Site) -> None:
    """Not in an hour; RabbitMQ's delays cannot be searched, there it ends when it is due."""
    far = 2.0 if site.broker.startswith("amqp") else HOUR
    place = Place(site.broker, site.backend, {"eta_horizon": 1.0})
    async with place.app() as app, place.app() as caller:
        ran: list[int] = []

        @app.task(name="proj.unwanted")
        async def unwanted(n: int) -> int:
            ran.append(n)
            return n

        early = await caller.send_task("proj.unwanted", (1,), countdown=far)
        await early.revoke()
        async with running(app, hostname="w@test") as worker:
            with pytest.raises(TaskRevokedError):
                await early.get(timeout=20)
            late = await caller.send_task("proj.unwanted", (2,), countdown=far)
            broker = await app.open_broker()

            async def parked() -> bool:
                assert worker._parts is not None
                return not worker._parts.custody.jobs() and not await broker.ready("celery")

            await eventually(parked)
            await late.revoke()
            with pytest.raises(TaskRevokedError):
                await late.get(timeout=20)
        assert await (await caller.open_broker()).size("celery") == 0
        assert not ran
