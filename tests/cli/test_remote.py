"""taskq status, inspect and control against a worker of its own.

The worker is the real command; of the questions one of each verb is, too, the others are asked in this process.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Taskq
from tests.commands import run_taskq, running_taskq

TASKS = """
from taskq import TaskQ
app = TaskQ("proj")

@app.task
async def add(x, y):
    return x + y
"""
NODE = "w@test"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "proj.py").write_text(TASKS)
    (tmp_path / "elsewhere").mkdir()
    return tmp_path


@pytest.fixture
def env(folder: Path) -> dict[str, str]:
    return {"TASKQ_BROKER_URL": f"sqlite:///{folder}/taskq.db"}


@pytest.fixture
def here(taskq: Taskq, folder: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Taskq:
    """Asks in this process, from a folder without an app."""
    monkeypatch.chdir(folder / "elsewhere")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return taskq


@pytest.fixture
def worker(folder: Path, env: dict[str, str]) -> Iterator[str]:
    with running_taskq("worker", "-A", "proj", "-n", NODE, folder=folder, env=env) as process:
        process.says("ready.")
        yield process.output


def test_nobody_is_there(folder: Path, env: dict[str, str]) -> None:
    done = run_taskq("status", "-t", "0.2", folder=folder / "elsewhere", env=env)
    assert (done.returncode, done.stdout) == (69, "")
    assert f"no worker answered within 0.2 s on sqlite:///{folder}/taskq.db" in done.stderr


@pytest.mark.usefixtures("worker")
def test_the_commands_ask_a_worker(folder: Path, env: dict[str, str]) -> None:
    def run(*words: str) -> str:
        done = run_taskq(*words, "-t", "10s", "-d", NODE, folder=folder / "elsewhere", env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("status") == f"->  {NODE}: OK\n"
    assert run("inspect", "registered") == f"->  {NODE}: OK\n        * proj.add\n"
    assert "new rate limit set successfully" in run("control", "rate_limit", "proj.add", "10/m")
    assert run_taskq("control", "shutdown", "-t", "0.5", folder=folder, env=env).returncode == 0


@pytest.mark.usefixtures("worker")
def test_status_inspect_and_control(here: Taskq) -> None:
    def run(*words: str, code: int = 0) -> str:
        said = here(*words, "-t", "10s", "-d", NODE)
        assert said.code == code, said.err
        return said.out

    assert json.loads(run("status", "--json")) == {NODE: {"ok": "pong"}}
    assert "- empty -" in run("inspect", "active")
    assert json.loads(run("inspect", "stats", "-j"))[NODE]["total"] == {}
    assert json.loads(run("inspect", "query_task", "a", "b", "-j")) == {NODE: {}}
    unknown = run("control", "time_limit", "no.such", "1", "2", code=1)
    assert f"->  {NODE}: ERROR\n        unknown task\n" in unknown
    assert "'10/q' is no rate like 10/s, 100/m, 5/h" in run(
        "control", "rate_limit", "proj.add", "10/q", code=1
    )
    assert "flagged as revoked" in run("control", "revoke", "a", "b")
    assert "terminate: tasks unknown" in run("control", "revoke", "a", "--terminate")
    assert json.loads(run("inspect", "revoked", "-j")) == {NODE: ["b", "a"]}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("inspect", "activ"), "no command 'activ'. Did you mean 'active'?"),
        (("control", "cancel_consumer", "a", "b"), "cancel_consumer takes QUEUE"),
        (("inspect", "ping", "x"), "ping takes no arguments"),
        (("control", "add_consumer"), "add_consumer takes QUEUE [EXCHANGE] [EXCHANGE_TYPE] [ROUTING_KEY]"),
        (("control", "rate_limit", "proj.add"), "rate_limit takes TASK_NAME RATE_LIMIT"),
    ],
)
def test_wrong_usage(here: Taskq, words: tuple[str, ...], error: str) -> None:
    said = here(*words)
    assert said.code == 2
    assert error in said.err


@pytest.mark.usefixtures("worker")
def test_two_workers_of_one_name_are_told(folder: Path, env: dict[str, str]) -> None:
    with running_taskq("worker", "-A", "proj", "-n", NODE, folder=folder, env=env) as process:
        process.says("ready.")
        done = run_taskq("status", "-t", "3", folder=folder / "elsewhere", env=env)
    assert done.returncode == 0
    assert f"warning: 2 workers are called {NODE}: give each a name of its own (-n)" in done.stderr


def test_status_imports_no_tasks(folder: Path, env: dict[str, str]) -> None:
    """A folder whose module cannot be imported: settings that name a broker are enough."""
    (folder / "elsewhere" / "tasks.py").write_text("raise RuntimeError('imported')")
    done = run_taskq("status", "-t", "0.2", folder=folder / "elsewhere", env=env)
    assert (done.returncode, "imported" in done.stderr) == (69, False)
    done = run_taskq("status", "-t", "0.2", "-A", "proj", folder=folder)
    assert done.returncode == 69
