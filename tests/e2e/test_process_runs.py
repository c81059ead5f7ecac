"""A worker that is killed takes the processes of its tasks with it: none of them works on beside its successor."""

import signal
from pathlib import Path

from taskq import TaskQ
from tests.commands import running_taskq
from tests.e2e.conftest import Site
from tests.polling import eventually

TASKS = """
import os, time
from pathlib import Path
from taskq import TaskQ

app = TaskQ("crunch")


@app.task(run_in="process")
def crunch(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    while True:
        sum(range(1000))
"""


def runs(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


async def test_a_killed_worker_leaves_no_process_behind(tmp_path: Path, site_sqlite: Site) -> None:
    (tmp_path / "crunch.py").write_text(TASKS)
    path = tmp_path / "pid"
    async with TaskQ("crunch", broker=site_sqlite.broker, backend=site_sqlite.backend) as app:
        with running_taskq("worker", "-A", "crunch", folder=tmp_path, env=site_sqlite.env) as worker:
            worker.says("ready.")
            await app.send_task("crunch.crunch", (str(path),))
            pid = int(await eventually(lambda: path.exists() and path.read_text()))
            assert runs(pid)
            worker.send(signal.SIGKILL)
            await eventually(lambda: not runs(pid))
