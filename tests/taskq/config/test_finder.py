import sys
from pathlib import Path

import pytest

from taskq.config.finder import FoundApp, find_app
from taskq.errors import ConfigError
from tests.taskq.conftest import Write

APP = "from taskq.app import TaskQ\n\n{name} = TaskQ('made by {name}')\n"


def made(name: str) -> str:
    return APP.format(name=name)


def find(folder: Path, name: str | None = None, **environ: str) -> FoundApp:
    return find_app(name, folder, environ)


@pytest.mark.parametrize(
    ("files", "name", "target"),
    [
        ({"proj.py": made("app")}, "proj", "proj:app"),
        ({"proj.py": made("celery")}, "proj", "proj:celery"),
        ({"proj.py": made("taskq")}, "proj", "proj:taskq"),
        ({"proj.py": made("other")}, "proj", "proj:other"),
        ({"proj.py": made("other") + made("app")}, "proj:other", "proj:other"),
        ({"proj.py": made("other") + made("app")}, "proj.other", "proj:other"),
        ({"proj/__init__.py": made("app")}, "proj", "proj:app"),
        ({"proj/__init__.py": "", "proj/celery.py": made("app")}, "proj", "proj.celery:app"),
        ({"proj/__init__.py": "", "proj/tasks.py": made("queue")}, "proj", "proj.tasks:queue"),
        ({"proj/__init__.py": made("other"), "proj/app.py": ""}, "proj", "proj:other"),
        ({"proj/__init__.py": "", "proj/app.py": made("app")}, "proj.app", "proj.app:app"),
        ({"proj/__init__.py": "from proj import app", "proj/app.py": made("x")}, "proj:app", "proj.app:x"),
        (
            {"proj/__init__.py": "", "proj/tasks.py": made("celery_app")},
            "proj.tasks:celery_app",
            "proj.tasks:celery_app",
        ),
    ],
)
def test_an_app_is_found_where_celery_would_find_it(
    project: Write, files: dict[str, str], name: str, target: str
) -> None:
    found = find(project(files), name)
    assert (found.target, found.told_by) == (target, "-A")
    assert found.app.main == f"made by {target.rpartition(':')[2]}"


def test_several_apps_in_one_module_are_told_of(project: Write) -> None:
    folder = project({"usual.py": made("other") + made("app"), "proj.py": made("first") + made("second")})
    with pytest.warns(RuntimeWarning, match="usual has several apps.*app is taken"):
        assert find(folder, "usual").target == "usual:app"
    with pytest.raises(ConfigError, match=r"name it with -A proj:first or -A proj:second"):
        find(folder, "proj")


def test_variable_then_pyproject_then_a_guess_tell_it(project: Write) -> None:
    folder = project({"one.py": made("app"), "two.py": made("app"), "tasks.py": made("app")})
    assert find(folder)[1:] == ("tasks:app", "guessed")
    project({"pyproject.toml": '[tool.taskq]\napp = "two:app"'})
    assert find(folder)[1:] == ("two:app", str(folder / "pyproject.toml"))
    assert find(folder, TASKQ_APP="one")[1:] == ("one:app", "environment TASKQ_APP")
    assert find(folder, "tasks", TASKQ_APP="one")[1:] == ("tasks:app", "-A")


@pytest.mark.parametrize("file", ["tasks.py", "app.py", "main.py", "shop/tasks.py"])
def test_a_guess_looks_into_the_usual_files(project: Write, file: str) -> None:
    folder = project({file: made("app"), "other.py": made("app")})
    assert find(folder).target == f"{file.removesuffix('.py').replace('/', '.')}:app"


def test_a_guess_imports_nothing_that_makes_no_app(project: Write) -> None:
    folder = project({"tasks.py": "raise SystemExit('imported')", "app.py": made("app")})
    assert find(folder).target == "app:app"


def test_the_current_folder_is_the_default_and_comes_first(
    project: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project({"tasks.py": made("app")})
    monkeypatch.chdir(folder)
    monkeypatch.delenv("TASKQ_APP", raising=False)
    sys.path.append(sys.path.pop(0))
    assert find_app().target == "tasks:app"
    assert sys.path[0] == str(folder)


def test_without_any_app_it_says_how_to_name_one(project: Write) -> None:
    folder = project({"other.py": made("app")})
    with pytest.raises(ConfigError) as caught:
        find(folder)
    assert str(caught.value) == (
        f"no taskq app named, and none found in {folder}\n"
        "  tried: tasks.py, app.py, main.py and <package>/tasks.py\n"
        "  name it with -A module:app or TASKQ_APP"
    )


def test_a_missing_module_is_told_with_what_would_work(
    project: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project({"tasks.py": made("app"), "shop/tasks.py": made("app")})
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError) as caught:
        find(folder, "nope")
    assert str(caught.value) == (
        'no taskq app at "nope"\n'
        "  tried: import nope                  -> ModuleNotFoundError: No module named 'nope'\n"
        f"  in:    {folder.name} (current directory)\n"
        "  found: tasks.py has an app: try  -A tasks\n"
        "  found: shop/tasks.py has an app: try  -A shop.tasks"
    )


@pytest.mark.parametrize(
    ("name", "tried"),
    [
        ("proj:ap", "proj:ap                      -> no such attribute. Did you mean 'app'?"),
        ("proj:number", "proj:number                  -> not a TaskQ but of type int"),
        ("proj.nothing", "proj:nothing                 -> no such attribute."),
        ("empty", "import empty                 -> there is no TaskQ in it"),
        ("no.such:app", "import no.such"),
    ],
)
def test_what_was_tried_is_told(project: Write, name: str, tried: str) -> None:
    folder = project({"proj.py": made("app") + "number = 1", "empty.py": ""})
    with pytest.raises(ConfigError) as caught:
        find(folder, TASKQ_APP=name)
    assert f'no taskq app at "{name}" (environment TASKQ_APP)\n' in str(caught.value)
    assert f"  tried: {tried}" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("import not_installed_here\n", "ModuleNotFoundError: No module named 'not_installed_here'"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def f(:\n", "SyntaxError: "),
    ],
)
def test_a_module_that_fails_shows_its_own_traceback(project: Write, text: str, problem: str) -> None:
    folder = project({"proj.py": text})
    with pytest.raises(ConfigError) as caught:
        find(folder, "proj:app")
    shown = str(caught.value)
    assert shown.startswith("proj failed when it was imported:\n")
    assert f'File "{folder / "proj.py"}", line 1' in shown
    assert problem in shown
    assert "importlib" not in shown
    assert "finder.py" not in shown


def test_a_module_that_taskq_refuses_shows_its_own_lines_alone(project: Write) -> None:
    folder = project({"proj.py": 'from taskq import TaskQ\napp = TaskQ("proj", task_ack_late=True)\n'})
    with pytest.raises(ConfigError) as caught:
        find(folder, "proj:app")
    lines = str(caught.value).splitlines()
    assert [line.strip() for line in lines if "File " in line] == [
        f'File "{folder / "proj.py"}", line 2, in <module>'
    ]
    assert lines[-1].endswith("Did you mean 'task_acks_late'?")
