"""A virtual host of one's own on the RabbitMQ of the tests, and what its operator can do to it."""

import asyncio
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import aio_pika
from yarl import URL

#: What `scripts/servers.py` says of the private server it has started: the environment that reaches it.
_PRIVATE = json.loads(os.environ.get("TASKQ_TEST_RABBITMQCTL", "null"))
#: The one on PATH changes to the user of the system's server, whose cookie is another one.
CONTROL = "/usr/lib/rabbitmq/bin/rabbitmqctl" if _PRIVATE else shutil.which("rabbitmqctl")


def rabbitmqctl(*arguments: str) -> str:
    """Run rabbitmqctl, and return what it prints."""
    assert CONTROL is not None
    done = subprocess.run(
        [CONTROL, "--quiet", *arguments],
        env=os.environ | (_PRIVATE or {}),
        check=True,
        capture_output=True,
        text=True,
        timeout=180,
    )
    return done.stdout


@contextmanager
def rabbit_vhost(amqp_url: str) -> Iterator[str]:
    """The URL of a fresh vhost; the given one where rabbitmqctl is missing or speaks to another server."""
    url = URL(amqp_url)
    if CONTROL is None:
        yield amqp_url
        return
    name = f"taskq-test-{uuid.uuid4().hex[:12]}"
    rabbitmqctl("add_vhost", name)
    try:
        rabbitmqctl("set_permissions", "-p", name, url.user or "guest", ".*", ".*", ".*")
        own = str(url.with_path(f"/{name}"))
        yield own if asyncio.run(reachable(own)) else amqp_url
    finally:
        rabbitmqctl("delete_vhost", name)


async def reachable(url: str) -> bool:
    try:
        await (await aio_pika.connect(url, timeout=5)).close()
    except (aio_pika.exceptions.AMQPError, OSError):
        return False
    return True


def is_own(url: str) -> bool:
    """Whether `rabbit_vhost` could make a vhost: then rabbitmqctl may be used on it."""
    return URL(url).path.startswith("/taskq-test-")


async def close_connections(vhost_url: str, name_part: str = "") -> int:
    """As an operator closes them; returns how many there were."""
    vhost = URL(vhost_url).path.removeprefix("/")
    listed = await asyncio.to_thread(rabbitmqctl, "list_connections", "pid", "vhost", "client_properties")
    pids = [
        line.split("\t")[0] for line in listed.splitlines() if f"\t{vhost}\t" in line and name_part in line
    ]
    for pid in pids:
        await asyncio.to_thread(rabbitmqctl, "close_connection", pid, "test")
    return len(pids)
