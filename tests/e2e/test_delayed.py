"""Ten thousand tasks due in an hour: they wait in the broker, not in the worker, and outlive both."""

import asyncio
import shutil
import signal
from pathlib import Path

import pytest

from taskq import TaskQ
from tests.commands import Running, running_taskq
from tests.e2e.conftest import Site
from tests.polling import eventually

TASKS = 10_000
HOUR = 3600.0
MAY_GROW = 20 * 1024 * 1024

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


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

        await eventually(all_there, within=30, every=1)
