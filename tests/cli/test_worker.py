"""`taskq worker` as a process: what it says and how it starts."""

import json
import signal
from pathlib import Path

import pytest

from tests.commands import run_taskq, running_taskq

TASKS = """
import logging
from taskq import TaskQ, get_task_logger

app = TaskQ("tasks", broker="sqlite:///queue.db")
log = get_task_logger(__name__)


@app.task
def add(x, y):
    log.warning("adding")
    return x + y
"""
NOWHERE = "redis://:secret@127.0.0.1:1/0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tasks.py").write_text(TASKS)
    return tmp_path


def test_the_banner_tells_what_people_look_for(folder: Path) -> None:
    options = (
        "-Q",
        "celery,priority.high",
        "-c",
        "7",
        "--threads",
        "3",
        "--grace",
        "1m",
        "-n",
        "web-1@%n",
        "-l",
        "error",
    )
    with running_taskq("worker", *options, folder=folder) as worker:
        worker.says("ready.")
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    lines = worker.output.splitlines()
    node = lines[-1].removesuffix(" ready.")
    assert node.startswith("web-1@")
    assert lines[0].startswith(f"taskq 0.1.0  worker {node}  pid {worker.process.pid}  Python 3.")
    assert lines[0].endswith("uvloop")
    assert lines[1:-1] == [
        "  app      tasks:app  (found here; -A or TASKQ_APP names another)",
        "  broker   sqlite:///queue.db  (TaskQ(...))",
        "  results  same",
        "  queues   celery, priority.high",
        "  slots    7 async / 3 threads    lease 30s    grace 60s",
        "  tasks    1: tasks.add",
    ]


def test_json_lines_have_the_tasks_fields(folder: Path) -> None:
    with running_taskq("-A", "tasks", "worker", "--log-format", "json", "-n", "w@h", folder=folder) as worker:
        worker.says("ready.")
        sent = run_taskq("call", "tasks.add", "2", "2", "--wait", folder=folder)
        assert (sent.stdout, sent.stderr, sent.returncode) == ("4\n", "", 0)
        worker.says("succeeded")
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    records = [json.loads(line) for line in worker.lines]
    assert [record.get("event") for record in records] == [
        "start",
        "ready",
        "received",
        None,
        "succeeded",
        None,
    ]
    assert records[0]["queues"] == ["celery"]
    logged = records[3]
    assert (logged["message"], logged["logger"], logged["level"]) == ("adding", "tasks", "warning")
    assert logged["task_name"] == "tasks.add"
    assert (logged["queue"], logged["attempt"], logged["worker"]) == ("celery", 1, "w@h")
    assert logged["task_id"] == logged["root_id"] == records[4]["task_id"]
    assert 0 <= records[4]["runtime"] < 5
    assert all(record["ts"].endswith("Z") for record in records)


def test_a_broker_that_is_not_there_is_waited_for(folder: Path) -> None:
    with running_taskq("worker", "-b", NOWHERE, folder=folder) as worker:
        worker.says("trying again in 1s")
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    assert "secret" not in worker.output
    assert "redis://:**@127.0.0.1:1/0" in worker.output


def test_unless_the_settings_say_otherwise(folder: Path) -> None:
    env = {"TASKQ_BROKER_CONNECTION_RETRY_ON_STARTUP": "no"}
    ended = run_taskq("-q", "worker", "-b", NOWHERE, folder=folder, env=env)
    assert ended.returncode == 69
    [line] = ended.stderr.splitlines()
    assert line.startswith("error: redis://:**@127.0.0.1:1/0")


def test_a_module_that_fails_shows_its_own_traceback(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import tasks_of_nobody\n")
    ended = run_taskq("worker", "-A", "broken", folder=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: broken failed when it was imported:\n")
    assert "No module named 'tasks_of_nobody'" in ended.stderr
    assert "taskq/cli" not in ended.stderr


def test_an_app_that_is_not_there_is_an_error_that_proposes_one(folder: Path) -> None:
    ended = run_taskq("worker", "-A", "nope", folder=folder)
    assert ended.returncode == 2
    assert ended.stderr.startswith('error: no taskq app at "nope"')
    assert "try  -A tasks" in ended.stderr
