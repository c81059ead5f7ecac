"""`taskq beat`, `taskq worker -B` and `taskq schedule`."""

import json
import signal
from pathlib import Path

import pytest

from tests.cli.conftest import Taskq
from tests.commands import run_taskq, running_taskq

PROJ = """
import asyncio
from taskq import TaskQ
from taskq.schedules import crontab, every

app = TaskQ("proj", broker="sqlite:///taskq.db")

@app.task(name="proj.tick", schedule=every("0.5s"))
async def tick():
    print("ticked", flush=True)

@app.task(name="proj.add")
async def add(x, y):
    return x + y

app.conf.beat_schedule = {"nightly": {"task": "proj.add", "schedule": crontab(30, 3), "args": (1, 2)}}
"""


@pytest.fixture
def proj(folder: Path) -> Path:
    (folder / "proj.py").write_text(PROJ)
    return folder


def test_ls_tells_names_tasks_schedules_and_next_instants(proj: Path, taskq: Taskq) -> None:
    said = taskq("schedule", "ls", "-A", "proj")
    header, nightly, tick = said.out.splitlines()
    assert header.split() == ["NAME", "TASK", "SCHEDULE", "NEXT"]
    assert nightly.startswith("nightly    proj.add   <crontab: 30 3 * * * (m/h/dM/MY/d)>")
    assert nightly.endswith("T03:30:00Z")
    assert tick.startswith("proj.tick  proj.tick  <every: 0:00:00.500000>")


def test_ls_and_next_in_json(proj: Path, taskq: Taskq) -> None:
    lines = [json.loads(line) for line in taskq("schedule", "ls", "-A", "proj", "--json").out.splitlines()]
    assert [line["name"] for line in lines] == ["nightly", "proj.tick"]
    assert lines[0]["args"] == [1, 2]
    assert lines[0]["schedule"] == {"kind": "crontab", "minute": "30", "hour": "3"}
    assert (lines[0]["owner"], lines[0]["paused"], lines[0]["runs"]) == ("code", False, 0)
    shown = json.loads(taskq("schedule", "next", "nightly", "-n", "2", "-A", "proj", "--json").out)
    assert shown["name"] == "nightly"
    assert [instant[10:] for instant in shown["next"]] == ["T03:30:00Z"] * 2


def test_pause_resume_and_run(proj: Path, taskq: Taskq) -> None:
    assert taskq("schedule", "pause", "nightly", "-A", "proj").err == "paused nightly\n"
    assert "paused" in taskq("schedule", "ls", "-A", "proj").out
    assert json.loads(taskq("schedule", "resume", "nightly", "-A", "proj", "--json").out) == {
        "name": "nightly",
        "done": "resumed",
    }
    assert "paused" not in taskq("schedule", "ls", "-A", "proj").out
    task_id = taskq("schedule", "run", "nightly", "-A", "proj").out.strip()
    assert len(task_id) == 36


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["pause", "nightli"], "no entry 'nightli'"),
        (["next", "x"], "no entry 'x'"),
        (["rm", "nightly"], "declared in the code"),
    ],
)
def test_what_cannot_be_done_is_a_wrong_usage(
    proj: Path, taskq: Taskq, arguments: list[str], why: str
) -> None:
    said = taskq("schedule", *arguments, "-A", "proj")
    assert said.code == 2
    assert why in said.err


def test_without_entries_it_says_so(folder: Path, taskq: Taskq) -> None:
    (folder / "proj.py").write_text('from taskq import TaskQ\napp = TaskQ("p", broker="memory://none")')
    assert taskq("schedule", "ls", "-A", "proj").err == "no periodic tasks\n"


@pytest.mark.parametrize("command", [["beat"], ["worker", "-B"]])
def test_a_wrong_entry_is_named_at_the_start(proj: Path, command: list[str]) -> None:
    (proj / "proj.py").write_text(f"{PROJ}\napp.conf.beat_schedule['bad'] = {{'task': 'x'}}")
    said = run_taskq(*command, "-A", "proj", folder=proj)
    assert said.returncode == 2
    assert "beat_schedule: 'bad' has no schedule" in said.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_beat_sends_and_stops_when_told(proj: Path, number: signal.Signals) -> None:
    with (
        running_taskq("worker", "-A", "proj", folder=proj) as worker,
        running_taskq("beat", "-A", "proj", folder=proj) as beat,
    ):
        beat.says("beat is ready")
        worker.says("ticked")
        beat.send(number)
        assert beat.wait() == 0


def test_a_worker_with_b_sends_too(proj: Path) -> None:
    with running_taskq("worker", "-A", "proj", "-B", folder=proj) as worker:
        worker.says("ticked")
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
