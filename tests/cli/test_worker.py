"""`taskq worker` as a process: what it says and how it starts."""

import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskq.signals import setup_logging, worker_ready
from tests.cli.conftest import Taskq
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
def shop(folder: Path) -> Path:
    (folder / "tasks.py").write_text(TASKS)
    return folder


def test_the_banner_tells_what_people_look_for(shop: Path) -> None:
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
    with running_taskq("worker", *options, folder=shop) as worker:
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
        f"  broker   sqlite:///{shop}/queue.db  (TaskQ(...))",
        "  results  same",
        "  queues   celery, priority.high",
        "  slots    7 async / 3 threads    lease 30s    grace 60s",
        "  tasks    1: tasks.add",
    ]


def test_the_banner_says_that_messages_must_be_signed(shop: Path) -> None:
    env = {"TASKQ_SECURITY_SECRETS": "0123456789abcdef0123456789abcdef"}
    with running_taskq("worker", folder=shop, env=env) as worker:
        worker.says("ready.")
        assert "  signed   only messages with a signature by security_secrets are taken" in worker.lines
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    assert "0123456789" not in worker.output


def test_the_number_of_slots_follows_the_load(shop: Path) -> None:
    (shop / "tasks.py").write_text(
        'import asyncio\nfrom taskq import TaskQ\napp = TaskQ("tasks", broker="sqlite:///queue.db")\n'
        "@app.task\nasync def wait():\n    await asyncio.sleep(60)\n"
    )
    with running_taskq("worker", "--autoscale", "4,1", "-n", "w@h", "--grace", "0", folder=shop) as worker:
        worker.says("ready.")
        assert "  slots    1 to 4 async / 16 threads    lease 30s    grace 0s" in worker.lines
        for _ in range(6):
            assert run_taskq("call", "tasks.wait", folder=shop).returncode == 0
        worker.says("4 slots instead of 2")
        told = run_taskq("control", "autoscale", "3", "2", "-t", "10s", "-d", "w@h", folder=shop)
        assert told.stdout.startswith("->  w@h: OK\n        autoscale now max=3 min=2\n"), told.stderr
        worker.says("3 slots instead of 4")
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--autoscale", "0"), "'0' is not MAX,MIN, as in 10,3"),
        (("--autoscale", "ten,3"), "'ten,3' is not MAX,MIN, as in 10,3"),
        (("--autoscale", "10,3,1"), "'10,3,1' is not MAX,MIN, as in 10,3"),
        (("--autoscale", "10,-1"), "'10,-1' is not MAX,MIN, as in 10,3"),
        (("--autoscale", "10,3", "-c", "5"), "--autoscale and --concurrency exclude each other"),
        (("--autoscale", "10,3", "-c", "5", "--processes", "2"), "exclude each other"),
        (("-c", "many"), "a number from 1 on, or auto"),
        (("-c", "0"), "a number from 1 on, or auto"),
    ],
)
def test_sizes_that_make_no_sense(taskq: Taskq, options: tuple[str, ...], problem: str) -> None:
    said = taskq("worker", *options)
    assert (said.code, said.out) == (2, "")
    assert problem in said.err


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("options", "slots"),
    [
        (("--autoscale", "3,10"), "3 to 10 async"),
        (("--autoscale", "10"), "1 to 10 async"),
        (("-c", "auto"), "10 to 1000 async"),
        (("-c", "7"), "7 async"),
        ((), "2 to 9 async"),
    ],
)
def test_the_command_line_wins_over_the_settings(
    taskq: Taskq, folder: Path, options: tuple[str, ...], slots: str
) -> None:
    program = ENDS_BY_ITSELF.replace("{signal}", "SIGTERM")
    (folder / "proj.py").write_text(
        program.replace('include=["more', 'worker_autoscale="9,2", include=["more')
    )
    assert f"  slots    {slots} / 16 threads" in taskq("worker", "-A", "proj", *options).err


def test_json_lines_have_the_tasks_fields(shop: Path) -> None:
    with running_taskq("-A", "tasks", "worker", "--log-format", "json", "-n", "w@h", folder=shop) as worker:
        worker.says("ready.")
        sent = run_taskq("call", "tasks.add", "2", "2", "--wait", folder=shop)
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


def test_a_broker_that_is_not_there_is_waited_for(shop: Path) -> None:
    with running_taskq("worker", "-b", NOWHERE, folder=shop) as worker:
        worker.says("trying again in 1s")
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    assert "secret" not in worker.output
    assert "redis://:**@127.0.0.1:1/0" in worker.output


def test_unless_the_settings_say_otherwise(shop: Path) -> None:
    env = {"TASKQ_BROKER_CONNECTION_RETRY_ON_STARTUP": "no"}
    ended = run_taskq("-q", "worker", "-b", NOWHERE, folder=shop, env=env)
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


def test_an_app_that_is_not_there_is_an_error_that_proposes_one(shop: Path) -> None:
    ended = run_taskq("worker", "-A", "nope", folder=shop)
    assert ended.returncode == 2
    assert ended.stderr.startswith('error: no taskq app at "nope"')
    assert "try  -A tasks" in ended.stderr


ENDS_BY_ITSELF = """
import os, signal
from taskq import TaskQ
from taskq.signals import worker_ready

app = TaskQ("proj", broker="memory://inside", include=["more_tasks"])


@worker_ready.connect
def stop(sender, **_):
    os.kill(os.getpid(), signal.{signal})
"""


@pytest.fixture
def in_process(folder: Path) -> Iterator[None]:
    """What a worker changes in its process is undone."""
    level = logging.getLogger("taskq").level
    ready, custom = list(worker_ready.receivers), list(setup_logging.receivers)
    (folder / "more_tasks.py").write_text("from proj import app\n@app.task\ndef one(): ...\n")
    yield
    logging.getLogger("taskq").setLevel(level)
    worker_ready.receivers[:], setup_logging.receivers[:] = ready, custom


@pytest.mark.usefixtures("in_process")
def test_a_worker_in_this_process(taskq: Taskq, folder: Path) -> None:
    (folder / "proj.py").write_text(ENDS_BY_ITSELF.replace("{signal}", "SIGTERM"))
    said = taskq("worker", "-A", "proj", "-n", "w@h")
    assert (said.code, said.out) == (0, "")
    assert "  app      proj:app  (-A)\n" in said.err
    assert "  tasks    1: more_tasks.one\n" in said.err
    assert said.err.endswith("w@h ready.\n")


@pytest.mark.usefixtures("in_process")
def test_its_own_lines_as_json(taskq: Taskq, folder: Path) -> None:
    (folder / "proj.py").write_text(ENDS_BY_ITSELF.replace("{signal}", "SIGTERM"))
    said = taskq("worker", "-A", "proj", "--log-format", "json", "-n", "w@h", "-Q", "a,b", "-c", "5")
    start, ready = map(json.loads, said.err.splitlines())
    assert (start["event"], start["app"], start["app_from"], start["tasks"]) == (
        "start",
        "proj:app",
        "-A",
        ["more_tasks.one"],
    )
    assert (start["queues"], start["concurrency"], start["broker"]) == (["a", "b"], 5, "memory://inside")
    assert (ready["event"], ready["message"], ready["worker"]) == ("ready", "w@h ready.", "w@h")


@pytest.mark.usefixtures("in_process")
def test_its_own_lines_in_colour(taskq: Taskq, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "proj.py").write_text(ENDS_BY_ITSELF.replace("{signal}", "SIGTERM"))
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert taskq("worker", "-A", "proj", "-n", "w@h").err.endswith("\033[1mw@h ready.\033[0m\n")


@pytest.mark.usefixtures("in_process")
def test_a_quiet_worker_without_tasks(taskq: Taskq, folder: Path) -> None:
    (folder / "proj.py").write_text(ENDS_BY_ITSELF.replace("{signal}", "SIGTERM"))
    (folder / "more_tasks.py").write_text("")
    assert taskq("-q", "worker", "-A", "proj", "-n", "w@h").err == "w@h ready.\n"
    assert "  tasks    none: is the module that has them imported?" in taskq("worker", "-A", "proj").err


@pytest.mark.usefixtures("in_process")
def test_an_app_may_set_up_logging_itself(taskq: Taskq, folder: Path) -> None:
    program = ENDS_BY_ITSELF.replace("{signal}", "SIGTERM") + (
        "from taskq.signals import setup_logging\n"
        "@setup_logging.connect\n"
        "def logs(loglevel, **_): print('at level', loglevel)\n"
    )
    (folder / "proj.py").write_text(program)
    assert taskq("worker", "-A", "proj", "-l", "debug").out == "at level 10\n"
    assert logging.getLogger("taskq").level == logging.NOTSET


@pytest.mark.usefixtures("in_process")
def test_hang_up_begins_anew_in_the_folder_it_was_started_in(
    taskq: Taskq, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = folder / "inside"
    inside.mkdir()
    (inside / "proj.py").write_text(ENDS_BY_ITSELF.replace("{signal}", "SIGHUP"))
    (folder / "more_tasks.py").rename(inside / "more_tasks.py")
    executed: list[object] = []
    monkeypatch.setattr(os, "execv", lambda *command: executed.append((Path.cwd(), *command)))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "taskq", "worker"])
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    taskq("worker", "-A", "proj", "--workdir", str(inside))
    assert executed == [(folder, sys.executable, [sys.executable, "-m", "taskq", "worker"])]


@pytest.mark.usefixtures("in_process")
def test_many_tasks_are_counted(taskq: Taskq, folder: Path) -> None:
    (folder / "proj.py").write_text(ENDS_BY_ITSELF.replace("{signal}", "SIGTERM"))
    tasks = "from proj import app\nfor n in range(12):\n    app.task(name=f't{n:02}')(lambda: None)\n"
    (folder / "more_tasks.py").write_text(tasks)
    assert (
        "  tasks    12: t00, t01, t02, t03, t04, t05, t06, t07, t08, t09 and 2 more\n"
        in taskq("worker", "-A", "proj").err
    )
