"""A vhost with workers of Celery and of taskq on it, and what they ran."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.commands import Running, running_taskq
from tests.polling import eventually, eventually_sync
from tests.rabbit import rabbit_vhost
from tests.wire.golden_live_app import QUEUES

HERE = Path(__file__).parent

Run = list[Any]


class Peer:
    """The workers of a vhost, and what they ran."""

    def __init__(
        self, broker: str, backend: str, folder: Path, queues: Sequence[str], env: dict[str, str]
    ) -> None:
        self.broker, self.backend = broker, backend
        self._folder, self._queues, self._more = folder, ",".join(queues), env
        self._log = folder / "runs"
        self._seen = 0

    @property
    def env(self) -> dict[str, str]:
        return {
            "GOLDEN_BROKER": self.broker,
            "GOLDEN_BACKEND": self.backend,
            "GOLDEN_LOG": str(self._log),
            **self._more,
        }

    def runs(self) -> list[Run]:
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [json.loads(line) for line in lines[self._seen :]]

    async def expect(self, runs: Sequence[Run]) -> None:
        """Wait until exactly these were run since the last time, in any order."""

        def ran() -> bool:
            return len(self.runs()) >= len(runs)

        await eventually(ran)
        present = self.runs()
        self._seen += len(present)
        assert sorted(map(json.dumps, present)) == sorted(map(json.dumps, runs))

    @contextmanager
    def celery(self) -> Iterator["subprocess.Popen[bytes]"]:
        """A Celery worker with one slot, ready."""
        command = (sys.executable, "-m", "celery", "-A", "golden_live_app", "worker", "-P", "solo")
        options = ("-l", "INFO", "-Q", self._queues, "--without-gossip", "--without-mingle")
        output = self._folder / "output"
        root = {"C_FORCE_ROOT": "1"}  # Celery takes no pickle from root otherwise
        with output.open("wb") as stream:
            process = subprocess.Popen(
                [*command, *options],
                cwd=HERE,
                env=os.environ
                | self.env
                | root
                | {"GOLDEN_SIDE": "celery", "PYTHONPATH": str(HERE.parent.parent)},
                stdout=stream,
                stderr=stream,
            )
        try:
            eventually_sync(lambda: " ready." in output.read_text())
            yield process
        finally:
            process.kill()
            process.wait()

    @contextmanager
    def taskq(self, *options: str) -> Iterator[Running]:
        """A taskq worker, ready."""
        env = self.env | {"GOLDEN_SIDE": "taskq"}
        with running_taskq(
            "worker", "-A", "golden_live_app", "-Q", self._queues, *options, folder=HERE, env=env
        ) as process:
            process.says("ready.")
            yield process


@contextmanager
def peer_of(
    amqp_url: str, backend: str, folder: Path, queues: Sequence[str] = QUEUES, **env: str
) -> Iterator[Peer]:
    """A vhost of their own."""
    with rabbit_vhost(amqp_url) as vhost:
        yield Peer(vhost, backend, folder, queues, env)
