import json
from pathlib import Path

import pytest

from tests.cli.conftest import Taskq


def test_only_what_was_set_and_where(taskq: Taskq, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "pyproject.toml").write_text('[tool.taskq]\nworker_grace = "1m"\n')
    monkeypatch.setenv("TASKQ_TASK_DEFAULT_QUEUE", "fast")
    said = taskq("conf", "-b", "redis://:secret@h/1")
    assert said.code == 0
    rows = [line.split(maxsplit=2) for line in said.out.splitlines()]
    assert rows == [
        ["SETTING", "VALUE", "FROM"],
        ["broker_url", '"redis://:**@h/1"', "option --broker"],
        ["task_default_queue", '"fast"', "environment TASKQ_TASK_DEFAULT_QUEUE"],
        ["worker_grace", "60.0", str(folder / "pyproject.toml")],
    ]


def test_all_of_them_as_json(taskq: Taskq) -> None:
    settings = [json.loads(line) for line in taskq("conf", "--all", "--json").out.splitlines()]
    found = {setting["name"]: setting for setting in settings}
    assert found["worker_concurrency"] == {"name": "worker_concurrency", "value": 100, "source": "default"}
    assert len(found) > 50


def test_nothing_set(taskq: Taskq) -> None:
    said = taskq("conf")
    assert (said.code, said.out) == (0, "")
    assert "taskq conf --all" in said.err
    assert taskq("-q", "conf").err == ""


def test_settings_of_a_module(taskq: Taskq, folder: Path) -> None:
    (folder / "more_settings.py").write_text("task_default_queue = 'slow'\n")
    assert '"slow"' in taskq("--config", "more_settings", "conf").out


def test_settings_of_the_app_in_another_folder(taskq: Taskq, folder: Path) -> None:
    inside = folder / "inside"
    inside.mkdir()
    (inside / "conf_app.py").write_text(
        "from taskq import TaskQ\napp = TaskQ(result_backend='disabled://')\n"
    )
    said = taskq("conf", "--workdir", str(inside), "-A", "conf_app", "--json")
    assert json.loads(said.out) == {"name": "result_backend", "value": "disabled://", "source": "TaskQ(...)"}


@pytest.mark.parametrize("place", ["before", "after"])
def test_shared_options_go_before_and_after_the_verb(taskq: Taskq, place: str) -> None:
    options = ("--result-backend", "memory://x")
    said = taskq(*options, "conf") if place == "before" else taskq("conf", *options)
    assert '"memory://x"' in said.out


def test_an_unknown_setting_is_an_error_that_names_the_near_one(taskq: Taskq, folder: Path) -> None:
    (folder / "pyproject.toml").write_text("[tool.taskq]\nworker_grce = 5\n")
    said = taskq("conf")
    assert said.code == 2
    assert "Did you mean 'worker_grace'?" in said.err
