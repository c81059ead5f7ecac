"""`make run`, as a stranger sees it: every outcome of the tour is the documented one."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: pytest's own is too long for the Unix sockets beside a SQLite file."""
    with tempfile.TemporaryDirectory(prefix="tour-") as name:
        yield Path(name)


@pytest.mark.slow
def test_the_tour_ends_well_and_leaves_nothing_behind(folder: Path) -> None:
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("TASKQ_", "CELERY_"))
    }
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "tour" / "tour.py"],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 of 8 as documented" in done.stdout
    assert "hello world: 42" in done.stdout
    assert list(folder.iterdir()) == []
