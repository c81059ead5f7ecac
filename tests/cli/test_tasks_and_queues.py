"""`taskq list`, `call`, `result` and `purge`, on a queue in a file and with a worker where one is needed."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Taskq
from tests.commands import Running, running_taskq

TASKS = """
import asyncio
from taskq import TaskQ

app = TaskQ("shop", task_routes={"shop_tasks.mail": "slow"})


@app.task
async def add(x: int, y: int = 1) -> int:
    "Adds."
    return x + y


@app.task
def mail(to: str) -> dict:
    return {"to": to}


@app.task
async def boom() -> None:
    raise ValueError("no")


@app.task(run_in="process")
def crunch(n: int) -> int: ...


@app.task(time_limit=5)
def limited() -> None: ...


@app.task(bind=True)
async def steps(self) -> str:
    for n in range(3):
        await self.update_state(state="PROGRESS", meta={"current": n, "total": 3})
        await asyncio.sleep(0.05)
    return "done"
"""


@pytest.fixture(autouse=True)
def shop(folder: Path) -> None:
    (folder / "shop_tasks.py").write_text(TASKS)
    (folder / "pyproject.toml").write_text('[tool.taskq]\napp = "shop_tasks"\n')


@pytest.fixture
def worker(folder: Path) -> Iterator[Running]:
    with running_taskq("worker", "-Q", "celery,slow", folder=folder) as running:
        running.says("ready.")
        yield running
        running.send(signal.SIGTERM)
        assert running.wait() == 0


def waiting(taskq: Taskq) -> dict[str, int]:
    lines = taskq("list", "queues", "-Q", "celery,slow", "--json").out.splitlines()
    return {row["queue"]: row["size"] for row in map(json.loads, lines)}


# --- list ---------------------------------------------------------------------------------------------------


def test_list_shows_tasks_and_queues(taskq: Taskq) -> None:
    said = taskq("list")
    assert said.code == 0
    lines = [line.split(maxsplit=1) for line in said.out.splitlines() if line]
    assert [line[0].partition("(")[0] for line in lines] == [
        "TASK",
        "shop_tasks.add",
        "shop_tasks.boom",
        "shop_tasks.crunch",
        "shop_tasks.limited",
        "shop_tasks.mail",
        "shop_tasks.steps",
        "QUEUE",
        "celery",
    ]
    assert "async    Adds." in said.out
    assert "shop_tasks.mail(to: str) -> dict           thread" in said.out
    assert "shop_tasks.crunch(n: int) -> int           process" in said.out
    assert "shop_tasks.limited() -> None               process" in said.out
    assert lines[-1] == ["celery", "0"]


def test_list_as_json(taskq: Taskq) -> None:
    rows = [json.loads(line) for line in taskq("list", "--json").out.splitlines()]
    assert rows[0] == {"task": "shop_tasks.add", "runs": "async", "doc": "Adds."}
    assert rows[-1] == {"queue": "celery", "size": 0}
    assert taskq("list", "tasks", "--json").out.splitlines() == [json.dumps(row) for row in rows[:-1]]


def test_list_needs_an_app_for_tasks_alone(taskq: Taskq, folder: Path) -> None:
    (folder / "pyproject.toml").unlink()
    (folder / "shop_tasks.py").unlink()
    assert taskq("list", "tasks").code == 2
    assert taskq("list").out == "QUEUE   WAITING\ncelery  0\n"


# --- call ---------------------------------------------------------------------------------------------------


def test_call_prints_the_id_alone(taskq: Taskq) -> None:
    said = taskq("call", "shop_tasks.add", "1", "2", "--task-id", "my-id")
    assert (said.code, said.out, said.err) == (0, "my-id\n", "")
    assert waiting(taskq) == {"celery": 1, "slow": 0}
    assert taskq("call", "shop_tasks.add", "1", "--task-id", "two", "--json").out == '{"task_id": "two"}\n'


def test_call_sends_what_the_options_say(taskq: Taskq) -> None:
    taskq("call", "shop_tasks.mail", "-k", "to=x")
    taskq(
        "call",
        "shop_tasks.add",
        "-a",
        "[1, 2]",
        "-Q",
        "slow",
        "--countdown",
        "1h",
        "--expires",
        "2h",
        "--priority",
        "3",
    )
    assert waiting(taskq) == {"celery": 0, "slow": 2}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("shop_tasks.add",), "missing a required argument: 'x'"),
        (("shop_tasks.add", "1", "-a", "[1]"), "given twice"),
        (("shop_tasks.add", "-a", "1"), "not a list"),
        (("shop_tasks.add", "1", "-k", "y"), "neither a JSON object nor name=value"),
        (("shop_tasks.add", "1", "--countdown", "soon"), "no time in seconds"),
    ],
)
def test_call_refuses_what_cannot_be_meant(taskq: Taskq, arguments: tuple[str, ...], text: str) -> None:
    said = taskq("call", *arguments)
    assert said.code == 2
    assert text in said.err
    assert waiting(taskq)["celery"] == 0


def test_call_refuses_a_task_that_the_app_does_not_have(taskq: Taskq, folder: Path) -> None:
    said = taskq("call", "shop_tasks.ad", "1")
    assert (said.code, said.out) == (2, "")
    assert "the app has no task 'shop_tasks.ad'. Did you mean 'shop_tasks.add'?" in said.err
    assert "--force sends it all the same" in taskq("call", "elsewhere.report").err
    assert waiting(taskq)["celery"] == 0
    assert taskq("call", "elsewhere.report", "--force").code == 0
    assert waiting(taskq)["celery"] == 1
    (folder / "pyproject.toml").unlink()
    (folder / "shop_tasks.py").unlink()
    assert taskq("call", "elsewhere.report").code == 0  # without an app nobody can tell


def test_call_says_when_no_worker_answers(taskq: Taskq) -> None:
    said = taskq("call", "shop_tasks.add", "1", "--wait", "--timeout", "6s")
    assert said.code == 1
    assert "no worker answers on sqlite:///" in said.err


def test_results_that_nobody_else_can_see_are_not_waited_for(
    taskq: Taskq, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKQ_BROKER_URL", "amqp://127.0.0.1:1")
    said = taskq("result", "some-id", "--watch")
    assert said.code == 1
    assert "results go straight to the program that called (rpc://)" in said.err
    monkeypatch.setenv("TASKQ_RESULT_BACKEND", "disabled://")
    assert "results are dropped" in taskq("result", "some-id").err
    monkeypatch.setenv("TASKQ_BROKER_URL", "sqlite:///x.db")
    said = taskq("call", "shop_tasks.add", "1", "--wait")
    assert said.code == 2
    assert "results are dropped" in said.err


def test_call_waits_no_longer_than_told(taskq: Taskq) -> None:
    said = taskq("call", "shop_tasks.add", "1", "--wait", "--timeout", "50ms")
    assert said.code == 1
    assert said.err.startswith("error: task ")


@pytest.mark.usefixtures("worker")
def test_call_and_result_with_a_worker(taskq: Taskq) -> None:
    added = taskq("call", "shop_tasks.add", "2", "-k", '{"y": 3}', "--wait")
    assert (added.code, added.out, added.err) == (0, "5\n", "")
    assert taskq("call", "shop_tasks.mail", "someone", "--wait").out == '{"to": "someone"}\n'

    failed = taskq("call", "shop_tasks.boom", "--wait", "--task-id", "boom-1")
    assert (failed.code, failed.out) == (1, "")
    assert failed.err.startswith("Traceback (most recent call last):\n")
    assert failed.err.endswith("FAILURE: ValueError: no\n")

    as_json = taskq("call", "shop_tasks.boom", "--wait", "--json")
    assert as_json.code == 1
    assert json.loads(as_json.out)["result"]["exc_type"] == "ValueError"

    again = taskq("result", "boom-1")
    assert (again.code, again.out, again.err) == (1, "", "FAILURE: ValueError: no\n")
    assert "Traceback" in taskq("result", "boom-1", "--traceback").err

    taskq("call", "shop_tasks.steps", "--task-id", "steps-1")
    watched = taskq("result", "steps-1", "--watch")
    assert (watched.code, watched.out) == (0, "done\n")
    assert watched.err.splitlines()[-1] == 'PROGRESS {"current": 2, "total": 3}'
    assert taskq("result", "steps-1", "--json").code == 0


def test_result_of_what_has_none(taskq: Taskq) -> None:
    said = taskq("result", "unheard-of")
    assert (said.code, said.out, said.err) == (1, "", "PENDING (or unknown)\n")
    assert json.loads(taskq("result", "unheard-of", "--json").out)["status"] == "PENDING"


# --- purge --------------------------------------------------------------------------------------------------


def test_purge_asks_tells_and_removes(taskq: Taskq) -> None:
    for _ in range(2):
        taskq("call", "shop_tasks.add", "1")
    taskq("call", "shop_tasks.mail", "x")
    assert taskq("purge", "-Q", "celery,slow", "--dry-run").out == "would remove 3 tasks (celery 2, slow 1)\n"
    unasked = taskq("purge")
    assert unasked.code == 2
    assert unasked.err == "error: Remove 2 tasks (celery 2)? Nobody is there to ask: say --force\n"
    assert waiting(taskq) == {"celery": 2, "slow": 1}
    assert taskq("purge", "-f").out == "removed 2 tasks\n"
    assert json.loads(taskq("purge", "-Q", "slow", "-f", "--json").out) == {"queue": "slow", "removed": 1}
    assert waiting(taskq) == {"celery": 0, "slow": 0}


def test_purge_of_a_broker_that_is_not_there(taskq: Taskq) -> None:
    said = taskq("purge", "-b", "redis://:secret@127.0.0.1:1/0", "-f")
    assert said.code == 69
    assert said.err.startswith("error: redis://:**@127.0.0.1:1/0")
    assert "secret" not in said.err
