import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from taskq.cli.main import run


@dataclass
class Said:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str


Taskq = Callable[..., Said]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, and a process that knows no setting."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("TASKQ_", "CELERY_", "NO_COLOR", "FORCE_COLOR")):
            monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def taskq(folder: Path, capsys: pytest.CaptureFixture[str]) -> Taskq:
    """Runs a command line in this process, in the folder. Modules it imports from there are forgotten afterwards."""

    def call(*arguments: str) -> Said:
        path = list(sys.path)
        try:
            code = run(arguments)
        finally:
            sys.path[:] = path
            forget_modules(folder)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return call


def forget_modules(folder: Path) -> None:
    for name, module in list(sys.modules.items()):
        if str(folder) in str(getattr(module, "__file__", "")):
            del sys.modules[name]
