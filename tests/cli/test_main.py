import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from taskq.cli import main
from taskq.cli.main import VERBS, Verb
from taskq.errors import ConfigError, OperationalError, ResultTimeout, StoreError
from taskq.version import VERSION
from tests.cli.conftest import Taskq
from tests.commands import environment

HEAVY = ("taskq.app", "taskq.worker", "redis", "aio_pika", "sqlite3", "rich", "uvloop", "asyncio", "orjson")


def test_the_help_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    code = "import sys, json, taskq.cli.main as m; m.run(['--help']); print(json.dumps(list(sys.modules)))"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    modules = set(json.loads(ended.stdout.splitlines()[-1]))
    assert "click" in modules
    assert not modules.intersection(HEAVY)


def test_the_help_has_all_verbs_on_one_screen(taskq: Taskq) -> None:
    said = taskq("--help")
    assert said.code == 0
    lines = said.out.splitlines()
    assert len(lines) <= 42
    assert max(map(len, lines)) <= 80
    sections = [line for line in lines if line in {"Run:", "Look:", "Act:"}]
    assert sections == ["Run:", "Look:", "Act:"]
    assert [line.split()[0] for line in lines if line.startswith("  ") and line.split()[0] in VERBS] == list(
        VERBS
    )


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(taskq: Taskq, verb: str) -> None:
    said = taskq(verb, "--help")
    assert said.code == 0
    assert said.out.startswith(f"Usage: taskq {verb} ")
    assert "Shared options:" in said.out


def test_the_version(taskq: Taskq) -> None:
    assert taskq("--version").out == f"taskq {VERSION}\n"


def test_a_mistyped_verb_is_an_error_that_names_the_near_one(taskq: Taskq) -> None:
    said = taskq("wroker")
    assert said.code == 2
    assert "error: no command 'wroker'. Did you mean 'worker'?" in said.err
    assert "Did you mean 'retry'?" in taskq("dead", "retyr").err


@pytest.mark.parametrize("verb", [(), ("dead",)])
def test_a_verb_alone_shows_its_help_and_no_error(taskq: Taskq, verb: tuple[str, ...]) -> None:
    said = taskq(*verb)
    assert said.out + said.err == taskq(*verb, "--help").out
    assert said.out + said.err != ""


@pytest.mark.parametrize(("verb", "word"), [("inspect", "active_queues"), ("control", "rate_limit")])
def test_commands_to_workers_are_listed_and_completed(taskq: Taskq, verb: str, word: str) -> None:
    assert f"  {word} " in taskq(verb, "--help").out
    complete = ShellComplete(main.cli, {}, "taskq", "_TASKQ_COMPLETE")
    assert word in [item.value for item in complete.get_completions([verb], word[:-2])]


def test_a_mistyped_option_is_one_too(taskq: Taskq) -> None:
    said = taskq("purge", "--dry-rn")
    assert said.code == 2
    assert "--dry-run" in said.err


@click.command()
def fails() -> None:
    raise _error[0]


@click.command()
def gives_three() -> int:
    return 3


_error: list[BaseException] = []


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ConfigError("a setting"), 2, "error: a setting\n"),
        (OperationalError("no broker"), 69, "error: no broker\n"),
        (StoreError("no store"), 69, "error: no store\n"),
        (ResultTimeout("too late"), 1, "error: too late\n"),
        (KeyboardInterrupt(), 130, "\n"),
        (click.Abort(), 130, ""),
        (SystemExit(5), 5, ""),
        (SystemExit("words"), 1, ""),
        (click.ClickException("no such letter"), 1, "error: no such letter\n"),
    ],
)
def test_errors_end_the_command_with_their_code_and_without_a_traceback(
    taskq: Taskq, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, text: str
) -> None:
    monkeypatch.setattr(main, "VERBS", {"fails": Verb(f"{__name__}:fails", "Run", "fails")})
    _error[:] = [error]
    said = taskq("fails")
    assert (said.code, said.err) == (code, text)


def test_an_error_of_ours_has_its_traceback(taskq: Taskq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "VERBS", {"fails": Verb(f"{__name__}:fails", "Run", "fails")})
    _error[:] = [RuntimeError("a bug")]
    said = taskq("fails")
    assert said.code == 70
    assert "RuntimeError: a bug" in said.err
    assert said.err.splitlines()[-1].startswith("internal error:")


def test_what_a_verb_returns_is_the_exit_code(taskq: Taskq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "VERBS", {"three": Verb(f"{__name__}:gives_three", "Run", "three")})
    assert taskq("three").code == 3


@pytest.mark.parametrize(
    ("env", "coloured"), [({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)]
)
def test_colours_as_the_environment_says(
    taskq: Taskq,
    monkeypatch: pytest.MonkeyPatch,
    env: dict[str, str],
    coloured: bool,  # noqa: FBT001 - parametrised
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert ("\033[" in taskq("wroker").err) is coloured
    assert ("\033[" in taskq("conf", "--all").out) is coloured


def test_no_color_wins_over_force_color(taskq: Taskq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "")
    assert "\033[" not in taskq("conf", "--all", "--no-color").out


def test_the_reader_may_leave(tmp_path: Path) -> None:
    command = f"{sys.executable} -m taskq conf --all | head -n 1"
    ended = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("SETTING")
