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
        eventually_sync(self._answers)  # its log is read first

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


#: Seconds after which a node that is frozen, or cut off, counts as gone for the others; 60 by default.
_TICK = 8
RABBITMQ = "/usr/lib/rabbitmq/bin/rabbitmq-server"  # the one on PATH insists on changing to another user


class RabbitServer:
    """A RabbitMQ node on a free port, with a name server, a cookie and data of its own in `folder`.

    Nodes of one cluster share a name server, by its port, and a `home`, where Erlang keeps its cookie.
    """

    def __init__(
        self, folder: Path, settings: str = "", *, names: int | None = None, home: Path | None = None
    ) -> None:
        self.port = free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        self.name = f"taskq-test-{self.port}@localhost"
        self._folder = folder
        self.settings = settings
        self._env = os.environ | {
            "HOME": str(home or folder),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(names or free_port()),
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(free_port()),
            # Its own default are eleven ports, for all that are under way on this machine.
            "RABBITMQ_CTL_DIST_PORT_MIN": "20000",
            "RABBITMQ_CTL_DIST_PORT_MAX": "60000",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-kernel net_ticktime {_TICK}",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.launch()
        eventually_sync(self.answers)

    def launch(self) -> None:
        """Start it, and do not wait for it."""
        listener = f"listeners.tcp.1 = 127.0.0.1:{self.port}\nlog.console = false\n"
        conf = f"{self.settings}{listener}disk_free_limit.absolute = 50MB\n"
        (self._folder / "rabbitmq.conf").write_text(conf)
        (self._folder / "plugins").write_text("[].\n")
        self._process = subprocess.Popen(
            [RABBITMQ],
            env=self._env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as probe:
                probe.sendall(b"AMQP\x00\x00\x09\x01")
                return bool(probe.recv(64))
        except OSError:
            return False

    def send(self, signum: signal.Signals) -> None:
        """To the node and all that it has started."""
        assert self._process is not None
        os.killpg(self._process.pid, signum)

    def kill(self) -> None:
        """Without any goodbye."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def control(self, *arguments: str) -> str:
        """As rabbitmqctl does it; returns what it prints."""
        command = [RABBITMQ.replace("rabbitmq-server", "rabbitmqctl"), "--quiet", *arguments]
        done = subprocess.run(command, env=self._env, check=True, capture_output=True, text=True, timeout=60)
        return done.stdout

    def close(self) -> None:
        self.kill()
        eventually_sync(self._names_nobody)

    def _names_nobody(self) -> bool:
        """The name server ends when it has seen that the node is gone."""
        return (
            subprocess.run(["epmd", "-kill"], env=self._env, check=False, capture_output=True).returncode == 0
        )


@contextmanager
def rabbit_server(folder: Path, settings: str = "") -> Iterator[RabbitServer]:
    """A running node, with these lines in its rabbitmq.conf; skips at home and fails in CI where the program is missing."""
    need_rabbitmq()
    server = RabbitServer(folder, settings)
    try:
        server.start()
        yield server
    finally:
        server.close()


def need_rabbitmq() -> None:
    if Path(RABBITMQ).exists():
        return
    if os.environ.get("CI"):
        pytest.fail("rabbitmq-server is not installed", pytrace=False)
    pytest.skip("rabbitmq-server is not installed")


@contextmanager
def rabbit_cluster(folder: Path, size: int = 3) -> Iterator[list[RabbitServer]]:
    """Running nodes of one cluster, in which a minority stops working; skips and fails as `rabbit_server`."""
    need_rabbitmq()
    cookie = folder / ".erlang.cookie"
    cookie.write_text("TASKQTESTS")
    cookie.chmod(0o400)
    names = free_port()
    nodes = []
    for number in range(size):
        (folder / str(number)).mkdir()
        nodes.append(RabbitServer(folder / str(number), names=names, home=folder))
    settings = "cluster_partition_handling = pause_minority\ncluster_formation.peer_discovery_backend = classic_config\n"
    settings += "".join(
        f"cluster_formation.classic_config.nodes.{number} = {node.name}\n"
        for number, node in enumerate(nodes, start=1)
    )
    try:
        for node in nodes:  # one after the other: the first makes the cluster, the others find it
            node.settings = settings
            node.start()
        yield nodes
    finally:
        for node in nodes:
            node.kill()
        nodes[0].close()
