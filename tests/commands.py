"""The command `taskq` as a real process, for tests."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.polling import LONG_ENOUGH, eventually_sync

ROOT = Path(__file__).parent.parent


def environment(**more: str) -> dict[str, str]:
    """As outside of the tests: our package importable, no setting of the developer's."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TASKQ_", "CELERY_", "NO_COLOR", "FORCE_COLOR"))
    }
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def run_taskq(
    *arguments: str, folder: Path, env: Mapping[str, str] | None = None, text: str | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "taskq", *arguments],
        cwd=folder,
        env=environment(**(env or {})),
        input=text,
        capture_output=True,
        text=True,
        timeout=LONG_ENOUGH,
        check=False,
    )


class Running:
    """A command that runs: its lines as they come, both streams together."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def output(self) -> str:
        """All it has said."""
        return "\n".join(self.lines)

    def says(self, text: str, *, within: float = LONG_ENOUGH) -> str:
        """Wait for a line with this text, and give it."""

        def probe() -> str | None:
            return next((line for line in self.lines if text in line), None)

        try:
            found = eventually_sync(probe, within=within)
        except AssertionError:
            raise AssertionError(f"never said {text!r}:\n{self.output}") from None
        assert found is not None
        return found

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self, within: float = LONG_ENOUGH) -> int:
        """Its exit code, when all it said is read."""
        code = self.process.wait(within)
        self._reader.join(within)
        return code


@contextmanager
def running_taskq(*arguments: str, folder: Path, env: Mapping[str, str] | None = None) -> Iterator[Running]:
    """A command in the background, killed at the end if it has not ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "taskq", *arguments],
        cwd=folder,
        env=environment(**(env or {})),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    running = Running(process)
    try:
        yield running
    finally:
        process.kill()
        running.wait()
        assert process.stdout is not None
        process.stdout.close()
