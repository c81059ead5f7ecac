"""A canary for a password: nothing that a worker or a command writes at DEBUG may hold it."""

from pathlib import Path

import pytest
import redis

from tests.commands import run_taskq, running_taskq
from tests.servers import redis_server

CANARY = "canary-7c1e5"
TASKS = """
from taskq import TaskQ

app = TaskQ("shy")


@app.task
async def fine() -> int:
    return 1


@app.task
async def fails() -> None:
    raise ValueError(repr(app), repr(app.conf), repr(app.broker_config()), repr(app.store_config()))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shy.py").write_text(TASKS)
    return tmp_path


@pytest.mark.redis
def test_no_password_in_logs(folder: Path) -> None:
    with redis_server(folder) as server:
        with redis.Redis(port=server.port) as client:
            client.config_set("requirepass", CANARY)
        url = server.url.replace("redis://", f"redis://:{CANARY}@")
        env = {"TASKQ_BROKER_URL": url, "TASKQ_RESULT_BACKEND": url}
        with running_taskq(
            "worker", "-A", "shy", "-l", "debug", "--http", "0", folder=folder, env=env
        ) as worker:
            worker.says("ready.")
            said = [
                run_taskq("call", "-A", "shy", "shy.fine", "--wait", folder=folder, env=env),
                run_taskq("call", "-A", "shy", "shy.fails", "--wait", folder=folder, env=env),
                run_taskq("conf", "-A", "shy", "--all", folder=folder, env=env),
                run_taskq("list", "-A", "shy", "queues", folder=folder, env=env),
            ]
            worker.says("failed")
        outputs = [worker.output, *(done.stdout + done.stderr for done in said)]
    assert [done.returncode for done in said] == [0, 1, 0, 0], outputs
    assert all(CANARY not in output for output in outputs)


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_no_password_in_errors(folder: Path, scheme: str) -> None:
    url = f"{scheme}://user:{CANARY}@127.0.0.1:1//"
    env = {
        "TASKQ_BROKER_URL": url,
        "TASKQ_BROKER_CONNECTION_RETRY": "false",
        "TASKQ_BROKER_CONNECTION_TIMEOUT": "1",
    }
    done = run_taskq("worker", "-A", "shy", "-l", "debug", folder=folder, env=env)
    assert done.returncode == 69
    assert "127.0.0.1:1" in done.stderr
    assert CANARY not in done.stdout + done.stderr
