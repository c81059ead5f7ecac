"""Run a command with a Redis and a RabbitMQ server at hand: `servers.py COMMAND ARG...`.

For each of the two, the first of these that holds:

1. `TASKQ_TEST_REDIS` / `TASKQ_TEST_AMQP` is set: used as it is;
2. a server answers on the default port: used (the tests keep to databases, vhosts and names of their own);
3. a private server is started on a free port, and stopped when the command ends. A server program that is
   missing is installed with apt-get if we are root.

It says what it does, hands the addresses to the command in the two variables, and ends with its exit code.
"""

import asyncio
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import aio_pika
import redis

REDIS_URL = "redis://127.0.0.1:6379"
AMQP_URL = "amqp://guest:guest@127.0.0.1:5672"
RABBITMQ = "/usr/lib/rabbitmq/bin/rabbitmq-server"  # the one on PATH insists on changing to another user
START_SECONDS = 60.0


def main(command: list[str]) -> int:
    if not command:
        say("usage: servers.py COMMAND ARG...")
        return 2
    logging.disable()  # a server that does not answer yet is expected here
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped then, too
    with ExitStack() as stack:
        provide(stack, "Redis", "TASKQ_TEST_REDIS", REDIS_URL, redis_answers, start_redis)
        provide(stack, "RabbitMQ", "TASKQ_TEST_AMQP", AMQP_URL, rabbitmq_answers, start_rabbitmq)
        return subprocess.run(command, check=False).returncode


def provide(
    stack: ExitStack,
    name: str,
    variable: str,
    default: str,
    answers: Callable[[str], bool],
    start: Callable[[ExitStack], "tuple[str, Server]"],
) -> None:
    """Find or start one server and put its address into the environment."""
    if variable in os.environ:
        say(f"{name}: {variable} is set")
    elif answers(default):
        say(f"{name}: the server at {default.rpartition('@')[2]}")
        os.environ[variable] = default
    else:
        url, server = start(stack)
        wait_until(lambda: answers(url), name, server)
        say(f"{name}: a private server at {url.rpartition('@')[2]}")
        os.environ[variable] = url


def redis_answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_timeout=5) as client:
            return bool(client.ping())
    except (redis.RedisError, OSError):
        return False


def rabbitmq_answers(url: str) -> bool:
    async def connect() -> None:
        connection = await aio_pika.connect(url, timeout=5)
        await connection.close()

    try:
        asyncio.run(connect())
    except (aio_pika.exceptions.AMQPError, OSError, TimeoutError):
        return False
    return True


class Server(NamedTuple):
    """A process we started, and where it writes what it has to say."""

    process: subprocess.Popen[bytes]
    output: Path


def start_redis(stack: ExitStack) -> tuple[str, Server]:
    need("redis-server", "redis-server")
    port = free_port()
    folder = new_folder(stack)
    options = {"bind": "127.0.0.1", "port": str(port), "dir": str(folder), "save": "", "appendonly": "no"}
    server = run(
        stack,
        ["redis-server", *(part for key, value in options.items() for part in (f"--{key}", value))],
        folder,
    )
    return f"redis://127.0.0.1:{port}", server


def start_rabbitmq(stack: ExitStack) -> tuple[str, Server]:
    need(RABBITMQ, "rabbitmq-server")
    port, epmd_port = free_port(), str(free_port())
    folder = new_folder(stack)
    config = f"listeners.tcp.1 = 127.0.0.1:{port}\nlog.console = false\ndisk_free_limit.absolute = 50MB\n"
    (folder / "rabbitmq.conf").write_text(config)
    (folder / "plugins").write_text("[].\n")
    environment = {
        "HOME": str(folder),  # where Erlang keeps its cookie
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": epmd_port,  # a name server of our own, so that it can be stopped again
        "RABBITMQ_NODENAME": f"taskq-{os.getpid()}@localhost",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
    }
    # The tests make vhosts of their own by rabbitmqctl, which would ask for the server on the default port.
    known = ("HOME", "ERL_EPMD_ADDRESS", "ERL_EPMD_PORT", "RABBITMQ_NODENAME")
    os.environ["TASKQ_TEST_RABBITMQCTL"] = json.dumps({name: environment[name] for name in known})
    stack.callback(
        subprocess.run,
        ["epmd", "-port", epmd_port, "-kill"],
        check=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    server = run(stack, [RABBITMQ], folder, environment)
    return f"amqp://guest:guest@127.0.0.1:{port}", server


def need(program: str, package: str) -> None:
    """Install the Debian package of a program that is not there."""
    if shutil.which(program) is not None:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        say(f"{package} is missing: install it (Debian: apt-get install {package}), or set the test variable")
        sys.exit(69)
    say(f"apt-get install {package} (it was missing; it stays installed)")
    # The package would start a server of its own on the default port; RUNLEVEL=1 asks it not to.
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for step in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", package]):
        done = subprocess.run(
            ["apt-get", *step],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            say(f"apt-get {' '.join(step)} failed:\n{done.stdout}")
            sys.exit(69)


def run(
    stack: ExitStack, command: list[str], folder: Path, environment: dict[str, str] | None = None
) -> Server:
    """Start a server in a process group of its own; it is stopped when the stack is left."""
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            command,
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    stack.callback(stop, process)
    return Server(process, folder / "output")


def stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            continue


def new_folder(stack: ExitStack) -> Path:
    return Path(
        stack.enter_context(tempfile.TemporaryDirectory(prefix="taskq-server-", ignore_cleanup_errors=True))
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(ready: Callable[[], bool], name: str, server: Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        ended = server.process.poll()
        if ended is not None or time.monotonic() > deadline:
            how = f"did not answer within {START_SECONDS:.0f} s" if ended is None else f"ended with {ended}"
            told = server.output.read_text(errors="replace")[-2000:].strip() or "nothing"
            say(f"{name} {how}; it said:\n{told}")
            sys.exit(69)
        time.sleep(0.2)


def say(text: str) -> None:
    print(f"servers: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
