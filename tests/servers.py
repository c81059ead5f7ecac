"""Servers of a test's own, for what the shared ones must not suffer: kills, full memory, other passwords."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.polling import eventually_sync


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class RedisServer:
    """A `redis-server` process on a free port, a Sentinel if there is a `config` for it.

    Nothing is saved unless `aof` asks for it, in `folder`.
    """

    def __init__(
        self, folder: Path, options: Sequence[str] = (), *, aof: bool = False, config: Path | None = None
    ) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        persistence = ["--appendonly", "yes", "--appendfsync", "always"] if aof else ["--appendonly", "no"]
        self._options = ["--save", "", *persistence, *options]
        if config is not None:
            self._options = ["--sentinel"]
        self._command = ["redis-server", *([str(config)] if config is not None else [])]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [*self._command, "--port", str(self.port), "--dir", str(self._folder), *self._options]
        self._process = subprocess.Popen([*command, "--loglevel", "warning"], stdout=subprocess.DEVNULL)
        eventually_sync(self._answers)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                probe.sendall(b"PING\r\n")
                return not probe.recv(64).startswith(b"-LOADING")
        except OSError:
            return False

    def send(self, signum: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(signum)

    def kill(self) -> None:
        """Without any goodbye."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, protocol=2)


@contextmanager
def redis_server(
    folder: Path, *options: str, aof: bool = False, config: Path | None = None
) -> Iterator[RedisServer]:
    """A running server; skips at home and fails in CI where the program is missing."""
    if shutil.which("redis-server") is None:
        if os.environ.get("CI"):
            pytest.fail("redis-server is not installed", pytrace=False)
        pytest.skip("redis-server is not installed")
    server = RedisServer(folder, options, aof=aof, config=config)
    server.start()
    try:
        yield server
    finally:
        server.kill()
