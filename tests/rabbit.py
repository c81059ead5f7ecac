"""A virtual host of one's own on the RabbitMQ of the tests, and what its operator can do to it."""

import asyncio
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from yarl import URL

CONTROL = shutil.which("rabbitmqctl")


def rabbitmqctl(*arguments: str) -> str:
    """Run rabbitmqctl; None of it is there when the server runs elsewhere (see `CONTROL`)."""
    assert CONTROL is not None
    done = subprocess.run(
        [CONTROL, "--quiet", *arguments], check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout


@contextmanager
def rabbit_vhost(amqp_url: str) -> Iterator[str]:
    """The URL of a fresh vhost; of the given one where rabbitmqctl is missing: use names of your own then."""
    url = URL(amqp_url)
    if CONTROL is None or os.environ.get("TASKQ_TEST_AMQP"):
        yield amqp_url
        return
    name = f"taskq-test-{uuid.uuid4().hex[:12]}"
    rabbitmqctl("add_vhost", name)
    rabbitmqctl("set_permissions", "-p", name, url.user or "guest", ".*", ".*", ".*")
    try:
        yield str(url.with_path(f"/{name}"))
    finally:
        rabbitmqctl("delete_vhost", name)


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
