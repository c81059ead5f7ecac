"""Celery's command lines: what has a meaning acts, what has none says so in a line."""

import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from taskq import TaskQ
from taskq.cli.worker import _without_urls, worker
from taskq.cli.worker_options import override
from tests.commands import run_taskq, running_taskq
from tests.polling import eventually_sync

TASKS = """
import os, threading
from taskq import TaskQ

app = TaskQ("tasks", broker="sqlite:///queue.db")


@app.task
def where():
    return [os.getpid(), threading.current_thread().name]
"""


@pytest.fixture
def shop(folder: Path) -> Path:
    (folder / "tasks.py").write_text(TASKS)
    return folder


def settings_of(*words: str) -> dict[str, object]:
    """The settings that a command line comes to."""
    with worker.make_context("worker", list(words)) as context:
        options = dict(context.params)
    pool = options.pop("pool")
    own = (
        "queues",
        "exclude_queues",
        "hostname",
        "loglevel",
        "log_format",
        "logfile",
        "pidfile",
        "include",
        "beat",
    )
    for name in (*own, "processes", "seat"):
        options.pop(name)
    app = TaskQ("seen", worker_autoscale="9,2")
    override(app, options, pool)
    return {name: value for name, value in app.conf.items() if "option" in app.conf.source_of(name)}


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ("--max-tasks-per-child 5", {"worker_max_tasks_per_child": 5}),
        ("--max-memory-per-child 9000", {"worker_max_memory_per_child": 9000}),
        ("--prefetch-multiplier 1", {"worker_prefetch_multiplier": 1}),
        (
            "--time-limit 300 --soft-time-limit 1m",
            {"task_time_limit": 300.0, "task_soft_time_limit": 60.0},
        ),
        ("-E", {"worker_send_task_events": True}),
        ("-P prefork", {"worker_run_in": "process"}),
        (
            "--pool=processes -c 4",
            {
                "worker_run_in": "process",
                "worker_pool_processes": 4,
                "worker_concurrency": 4,
                "worker_autoscale": None,
            },
        ),
        (
            "--pool threads -c 40",
            {"worker_threads": 40, "worker_concurrency": 40, "worker_autoscale": None},
        ),
        (
            "--pool threads -c 40 --threads 3",
            {"worker_threads": 3, "worker_concurrency": 40, "worker_autoscale": None},
        ),
        ("-P solo", {"worker_threads": 1, "worker_concurrency": 1, "worker_autoscale": None}),
    ],
)
def test_options_of_celery_that_have_a_meaning_are_settings(words: str, settings: dict[str, object]) -> None:
    assert settings_of(*words.split()) == settings


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--without-gossip", "--without-gossip does nothing here: workers do not talk to each other"),
        ("-Ofair", "--optimization does nothing here: a free slot takes the next task, as with -Ofair"),
        ("--statedb x.db", "--statedb does nothing here: revoked ids live in the broker"),
        ("--heartbeat-interval 5", "--heartbeat-interval does nothing here"),
    ],
)
def test_what_tunes_celery_alone_is_taken_with_a_line_that_says_why(
    capsys: pytest.CaptureFixture[str], words: str, text: str
) -> None:
    assert settings_of(*words.split()) == {}
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--uid nobody", "--uid is Celery's alone: start the worker as that user"),
        ("-D", "--detach is Celery's alone: systemd or a container runs it in the background"),
        ("--purge", "call taskq purge before"),
        ("-P gevent", "there is no gevent here: async def tasks run on the loop"),
        ("-P eggs", "'eggs' is none of prefork, processes, solo, threads"),
    ],
)
def test_what_would_be_something_else_is_refused(words: str, text: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        settings_of(*words.split())
    assert text in caught.value.format_message()


def test_the_pool_prefork_runs_plain_tasks_in_processes(shop: Path) -> None:
    with running_taskq("worker", "--pool", "prefork", "-c", "1", folder=shop) as running:
        running.says("ready.")
        ended = run_taskq("call", "tasks.where", "--wait", folder=shop)
        pid, thread = ended.stdout.strip(" \n[]").split(", ")
        assert int(pid) != running.process.pid
        assert thread == '"MainThread"'
        running.send(signal.SIGTERM)
        assert running.wait() == 0


def test_queues_are_excluded_and_modules_included(shop: Path) -> None:
    (shop / "more.py").write_text("from tasks import app\n@app.task\ndef one(): ...\n")
    options = ("-Q", "a,b,c", "-X", "b", "-I", "more")
    with running_taskq("worker", *options, folder=shop) as running:
        running.says("ready.")
        assert "  queues   a, c" in running.lines
        assert "  tasks    2: more.one, tasks.where" in running.lines
        running.send(signal.SIGTERM)
        assert running.wait() == 0
    assert "no queue is left: see -Q and -X" in run_taskq("worker", "-X", "celery", folder=shop).stderr


def test_the_pid_file_keeps_a_second_worker_away(shop: Path) -> None:
    options = ("worker", "-n", "w@h", "--pidfile", "%n.pid")
    path = shop / "w.pid"
    with running_taskq(*options, folder=shop) as running:
        running.says("ready.")
        assert path.read_text() == f"{running.process.pid}\n"
        second = run_taskq(*options, folder=shop)
        assert second.returncode == 2
        assert f"process {running.process.pid} is this worker, and it lives" in second.stderr
        running.send(signal.SIGTERM)
        assert running.wait() == 0
    assert not path.exists()


def test_a_pid_file_of_a_dead_worker_is_taken_over(shop: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (shop / "w.pid").write_text(f"{dead.pid}\n")
    with running_taskq("worker", "--pidfile", "w.pid", folder=shop) as running:
        running.says("ready.")
        assert (shop / "w.pid").read_text() == f"{running.process.pid}\n"


def test_logs_go_to_a_file_that_may_be_moved_away(shop: Path) -> None:
    path = shop / "w.log"
    with running_taskq("worker", "-n", "w@h", "-f", "%n.log", folder=shop) as running:
        running.says("ready.")
        for moved in ("one.log", "two.log"):
            assert run_taskq("call", "tasks.where", "--wait", folder=shop).returncode == 0
            eventually_sync(lambda: "succeeded  tasks.where[" in path.read_text())
            path.rename(shop / moved)
        running.send(signal.SIGTERM)
        assert running.wait() == 0
    assert "succeeded" not in running.output


def test_each_of_several_processes_may_have_a_file_of_its_own(shop: Path) -> None:
    options = ("-n", "w@h", "-f", "%h-%i.log", "--processes", "2")
    with running_taskq("worker", *options, folder=shop) as running:
        running.says("w-1@h ready.")
        running.says("w-2@h ready.")
        running.send(signal.SIGTERM)
        assert running.wait() == 0
    assert {path.name for path in shop.glob("*.log")} == {"h-0.log", "h-1.log", "h-2.log"}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("-A proj -b URL worker", "-A proj worker"),
        ("worker -bURL -l info", "worker -l info"),
        ("worker -qb URL -E", "worker -q -E"),
        ("worker -qBb URL", "worker -qB"),
        ("--broker=URL --result-backend URL worker", "worker"),
        ("worker -n base --heartbeat-file b", "worker -n base --heartbeat-file b"),
    ],
)
def test_urls_are_left_out_of_the_command_lines_of_children(given: str, kept: str) -> None:
    assert list(_without_urls(given.split())) == kept.split()
